"""The command line: one file a verb."""

from seqzoo.train.cli.command import main

__all__ = ["main"]
