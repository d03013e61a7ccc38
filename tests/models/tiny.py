"""Tiny options for every mixer of the registry, so that each law compiles fast.

A second entry under the same mixer (`name@variant`) puts an option under the laws too.
"""

TINY = {
    "attention": {"num_heads": 2, "max_length": 32},
    "attention@window": {"num_heads": 4, "num_kv_heads": 1, "window": 5},
    "attention@unrotated": {"num_heads": 2, "positions": "none", "max_length": 32},
    "linear_attention": {"num_heads": 2},
    "linear_attention@rope": {"num_heads": 2, "positions": "rope", "chunk_size": 4},
    "linear_attention@plain": {"num_heads": 2, "normalize": False, "chunk_size": 5},
    "s4d": {"d_state": 4, "chunk_size": 4},
    "s4d@bilinear": {"d_state": 6, "init": "legs", "discretization": "bilinear", "gate": False},
    "lru": {"d_state": 6},
    "rnn": {},
    "rnn@relu": {"activation": "relu"},
    "lstm": {},
    "lstm@projection": {"d_hidden": 10, "peephole": True},
    "gru": {},
    "gru@before": {"reset_after": False, "d_hidden": 6},
}
