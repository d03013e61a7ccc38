"""What others bring: code by its address, and plain modules as mixers."""
