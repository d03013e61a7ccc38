"""`python -m seqzoo.train.cli`."""

from seqzoo.train.cli.command import main

main()
