"""Transformer-VQ: its mixer, what a chunk sees, its codebook."""
