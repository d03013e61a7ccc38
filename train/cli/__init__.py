"""The command line: one file a verb."""

from seqzoo.train.cli.main import main

__all__ = ["main"]
