"""Gated attention units: one head with wide values and narrow keys."""
