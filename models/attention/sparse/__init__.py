"""Attention to windows of pictures, and to blocks that the data choose."""
