"""Mixers whose state is a small model, trained as the row is read."""
