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
    "deltanet": {"num_heads": 2, "chunk_size": 4, "allow_negative_eigenvalues": True},
    "gated_deltanet": {"num_heads": 1, "num_value_heads": 2, "d_key": 3, "chunk_size": 4},
    "kda": {"num_heads": 2, "d_value": 3, "chunk_size": 8},
    "delta_product": {"num_heads": 2, "chunk_size": 8},
    "delta_product@gated": {"num_heads": 2, "d_conv": 0, "gated": True, "chunk_size": 8},
    "s4d": {"d_state": 4, "chunk_size": 4},
    "s4d@bilinear": {"d_state": 6, "init": "legs", "discretization": "bilinear", "gate": False},
    "lru": {"d_state": 6},
    "mamba": {"d_state": 3, "chunk_size": 4},
    "mamba@normed": {"d_state": 2, "dt_rank": 2, "d_conv": 1, "inner_norm": True},
    "mamba2": {"d_state": 3, "d_head": 4, "num_groups": 2, "chunk_size": 4},
    "mamba2@plain": {"d_state": 2, "d_head": 8, "d_conv": 2, "norm": False},
    "rnn": {},
    "rnn@relu": {"activation": "relu"},
    "lstm": {},
    "lstm@projection": {"d_hidden": 10, "peephole": True},
    "gru": {},
    "indrnn": {"activation": "tanh"},
    "qrnn": {"d_hidden": 6, "width": 3},
    "sru": {},
    "min_gru": {"d_hidden": 6},
    "min_lstm": {},
    "hgrn": {"d_hidden": 6, "lower_bound": 0.3},
    "rg_lru": {"num_blocks": 2, "d_hidden": 12},
    "gru@before": {"reset_after": False, "d_hidden": 6},
}
