"""`python -m seqzoo`."""

from seqzoo.train.cli import main

main()
