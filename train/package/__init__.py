"""A JAX/Flax NNX zoo of sequence models for long sequences, with one training loop.

`seqzoo.models` holds mixers and whole models, `seqzoo.models.ops` what they compute, `seqzoo.tasks`
what they learn, `seqzoo.train` the loop; `python -m seqzoo` is the command `seqzoo`.
"""

__version__ = "0.1.0"
