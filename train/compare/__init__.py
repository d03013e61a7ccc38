"""Part of seqzoo."""
