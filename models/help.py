"""`help(LRU)` as the page of LRU: what its file says, its arguments, an example."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping

from seqzoo.models.construct import parameters_of

SHARED = {
    "d_model": "width D of the rows [B, L, D] that come in and go out",
    "causal": "False: it looks both ways, by nature or as a copy for each way",
    "dtype": "of the arithmetic inside; recurrences and states are at least float32",
    "param_dtype": "of the parameters",
    "layer": "(index, depth) in a stack, for what depends on it",
    "rngs": "a key, or nnx.Rngs with the stream `params`",
}

# What help pages and flags say of options: by name, for all mixers that have one of that name.
OPTIONS: Mapping[str, str] = {
    "activation": "of the recurrence",
    "allow_negative_eigenvalues": "strengths up to 2, not 1, so that a state can turn its sign",
    "averages": "moving averages N of each channel",
    "back": "blocks before a token's own that it sees",
    "base_lr": "largest rate of the inner training, times the width of a head",
    "batch_size": "tokens whose inner gradients are made at once, at the same weights",
    "beta_max": "largest rate of learning at the start, in (0, 1)",
    "beta_min": "least rate of learning at the start, in (0, 1)",
    "block_size": "tokens of a block, counted from the start of the segment",
    "cache_dtype": "of the keys and values that a stream keeps; None: dtype",
    "chunk_size": "tokens computed at once: speed, not results; None: chosen for the device",
    "clip_eigs": "keeps the real parts of the eigenvalues below -1e-4",
    "commit_weight": "factor of the loss that keeps keys near their codewords",
    "compressive": "whether keys beyond `memory` are attended, by their codewords",
    "conj_sym": "whether one eigenvalue of each conjugate pair stands for both",
    "conv_bias": "whether the short convolution has a bias",
    "conv_width": "taps of the convolution of the values, odd; 0: none",
    "correction": "share of the key that is taken off the query at first; small models: 0.02",
    "d_conv": "taps of the short causal convolution; 0: none",
    "d_head": "width of a head; None: d_model / num_heads",
    "d_hidden": "width of the state; None: d_model",
    "d_key": "width of a head's keys; None: d_model / num_heads",
    "d_nope": "width of a head's keys that do not turn; None: d_model / num_heads",
    "d_proj": "width of h, smaller than d_hidden; None: d_hidden",
    "d_qk": "width of queries and keys",
    "d_rope": "width of the keys that turn, shared by all heads, even; None: half a head",
    "d_shift": "keys that the shift state space remembers",
    "d_state": "size N of the state of a channel",
    "d_value": "width of a head's values; None: d_model / num_heads",
    "decay_max": "largest decay at the start, below 1",
    "decay_min": "least decay at the start, above 0",
    "decay_rank": "rank of what makes the decays of a token",
    "depth": "layers of the memory; 1 for a matrix",
    "differential": "subtract the attention of every second head from that of the one before",
    "discretization": "of the continuous system, by steps of length dt",
    "dt_limit": "least and largest step that is taken, after softplus; None: no limits",
    "dt_max": "largest step at the start",
    "dt_min": "least step at the start; steps start log-uniform in [dt_min, dt_max]",
    "dt_rank": "rank of what makes the steps; None: d_model / 16, rounded up",
    "ema": "decay of the averages that the codebook follows, in [0, 1)",
    "eps": "added to, or least size of, what outputs are divided by",
    "equal_norms": "random directions of one length, the root of a head's width",
    "expand": "inner width in units of d_model",
    "expansion": "width of the values in units of d_model",
    "far": "what the linear part sums over where it looks both ways: segment, or own block alone",
    "feature_eps": "added to the features; None: that of the kind, as published",
    "feature_map": "of queries and keys, in place of the softmax",
    "filter_bands": "frequencies of the time that the filters' network sees",
    "filter_width": "hidden width of the network that makes the filters",
    "forget_bias": "of the forget gate at the start",
    "frequency": "factor of the network's sines at the start",
    "gate": "whether GELU and a gated linear layer follow",
    "gate_cap": "c: gates are c tanh(x / c) before their exponential; None: as they are",
    "gated": "whether the state decays too, as in Gated DeltaNet",
    "global_positions": "tokens of a segment, by number, that all see and that see all",
    "grid_width": "pixels of a line of the picture that a row is",
    "growth": "most that `length` tokens may make of a state",
    "horizon": "length M of the cosine's quarter, in tokens",
    "init": "where the state matrix starts",
    "inner_norm": "whether steps, B and C are normalised (Falcon Mamba)",
    "inner_scale": "whether those norms have weights (Jamba)",
    "kernel": "exp, or softmax over `length` positions",
    "kind": "of the weights",
    "kv_rank": "width of what keys and values are made of, and a stream keeps; None: d_model / 2",
    "landmarks": "stretches of a row whose means stand for it",
    "learned_bound": "whether each channel learns its own least decay",
    "levels": "powers of two of the past that have a state each (log-linear); 0: one for all",
    "lower_bound": "least decay, in [0, 1); None: by the layer's place in the stack",
    "max_length": "most tokens of a segment; past it a stream is an error",
    "max_phase": "largest angle of an eigenvalue at the start, in (0, 2π]",
    "measure": "of the HiPPO matrix that the state starts from: what of the past is remembered",
    "memories": "signals that are remembered",
    "memory": "tokens before a query's block whose keys are kept as they are",
    "mix_rank": "rank of what mixes a token with the one before",
    "norm": "whether the output is normalised",
    "norm_before_gate": "the norm before the gate instead of behind it",
    "norm_eps": "added to what the norm divides by",
    "normalize": "whether outputs are divided by the sum of their weights",
    "num_codes": "codewords N of a head",
    "num_features": "random features M of a head",
    "num_groups": "of heads, which share B and C; divides their number",
    "num_heads": "heads",
    "num_householders": "steps of the delta rule for a token",
    "num_kv_heads": "heads of keys and values, shared by as many queries each; None: num_heads",
    "num_random": "blocks that are drawn for each block",
    "num_slots": "slots M of a head's memory",
    "num_value_heads": "heads of values, a multiple of num_heads; None: num_heads",
    "order": "number of products N, at least 2: N - 1 long filters",
    "out_bias": "whether the output projection has a bias; None: as use_bias",
    "output_gate": "whether the output is times a sigmoid of the input",
    "pattern": "strided: near tokens and every stride-th; fixed: own block and ends of others",
    "peephole": "whether gates see the cell",
    "position_base": "longest wavelength of the sinusoids of distances",
    "positions": "how queries and keys know their positions",
    "positive": "states kept positive, as in the paper's form by logarithms",
    "projection": "how the random directions are drawn",
    "q_rank": "width of what queries are made of; None: made of the input itself",
    "qk_norm": "whether queries and keys are normalised",
    "qk_norm_centered": "scales of those norms kept less 1",
    "r_max": "largest size of an eigenvalue at the start, at most 1",
    "r_min": "least size of an eigenvalue at the start",
    "redraw_interval": "training calls between new random directions; 0: never",
    "relative_bias": "whether scores have a bias by distance, in T5's buckets",
    "reset_after": "the reset gate behind the matrix product, as in cuDNN, or before it",
    "rope_base": "of the wavelengths of rotary positions",
    "rope_fraction": "share of the channels that turn",
    "rope_interleaved": "neighbouring channels turn together, or those of the two halves",
    "rotary": "whether queries and keys turn with their position",
    "scale": "factor of the scores; None: 1 / sqrt(d_head)",
    "seed": "of what is drawn",
    "share_of_now": "learned shares are the current token's, or the one's before",
    "shared_start": "one start of the iteration for a whole batch, as the published code has it",
    "shift": "half of the channels are those of the token before",
    "stabilizer": "the largest exponent so far, or of the whole row, which is not causal",
    "step": "size of the transition less the identity at the start",
    "step_rescale": "factor of all steps, for another sampling rate: the old over the new one",
    "stride": "of the tokens that are seen from afar, or tokens of a block",
    "summary": "last tokens of a block that all later ones see, of pattern fixed",
    "top": "blocks that a query chooses beside those that it sees anyway",
    "unit": "tokens in a unit of the filters' time; None: max_length",
    "use_bias": "whether projections have biases",
    "value_rank": "rank of what mixes in the first layer's values",
    "width": "tokens that the convolution sees",
    "window": "tokens back that are seen, the own one counted; None: all",
    # where a mixer means something of its own by it
    "ABC.rotary": "whether keys and queries turn with their position before slots are chosen",
    "Based.d_key": "width of a head's queries and keys, whose squares are the features",
    "BigBird.max_length": "most tokens of a segment, where it is causal and blocks are drawn",
    "CosFormer.eps": "least size of what outputs are divided by",
    "DeltaProduct.chunk_size": (
        "steps computed at once, num_householders a token; None: chosen for the device"
    ),
    "DiagAttention.kind": "softmax, or relu and a norm",
    "DSS.length": "positions of the softmax kernel",
    "Flash.length": "what scores are divided by; None: how many tokens a query sees",
    "GAU.length": "what scores are divided by; None: how many tokens a query sees",
    "GLA.d_key": "width of a head's keys; None: half of d_value",
    "GLA.gate_rank": "rank of what makes the decays",
    "GLA.temperature": "τ: decays are to the power of 1 / τ, so that larger ones forget less",
    "GSA.temperature": "τ: decays are to the power of 1 / τ, so that larger ones forget less",
    "H3.d_head": "channels of a head, whose outer products are remembered",
    "H3.d_state": "real size N of a channel's state, half as many complex pairs, even",
    "DSS.d_state": "real size N of a channel's state, half as many complex numbers, even",
    "HippoCell.d_state": "coefficients N of one memory, even",
    "HippoCell.measure": "what of the past is remembered",
    "HippoCell.window": "tokens that a memory spans (lagt: its time constant); legs has none",
    "HGRN2.d_key": "width of a head's keys; None: d_model / num_heads",
    "IndRNN.length": "tokens that `growth` is for; 0: no bound",
    "LinOSS.d_state": "oscillators P",
    "LinOSS.kind": "of the step: imex keeps energy, im loses some, damped learns how much",
    "LinOSS.r_min": "least size of an eigenvalue of damped at the start",
    "LinOSS.r_max": "largest size of an eigenvalue of damped at the start, at most 1",
    "Linformer.max_length": "most tokens of a row",
    "Linformer.rank": "rows that keys and values are projected to, along the length",
    "LongConv.kind": "free: a tap each; multiscale: parts drawn out to several scales",
    "LongConv.max_length": "taps, and most tokens of a segment",
    "LongConv.squash": "size below which a tap of kind free counts as 0",
    "LongConv.width": "numbers of a part, of kind multiscale",
    "Longformer.block_size": "tokens computed at once, at most window; None: window",
    "Longformer.window": "tokens that are seen on a side, the own one counted",
    "LRU.d_state": "complex states N",
    "LRU.normalize": "whether inputs are scaled so that a state's size is that of the input",
    "LSTM.d_hidden": "width of the cell; None: d_model",
    "Mamba2.d_head": "channels of a head; None: 64, or the inner width where that is smaller",
    "Mamba3.chunk_size": "writes computed at once, rank a token; None: chosen for the device",
    "Mamba3.d_head": "channels of a head; None: 64, or the inner width where that is smaller",
    "Mamba3.rank": "writes to the state for each token",
    "Mega.block_size": "tokens of a block of attention; None: the whole segment",
    "Mega.kind": "of the weights: laplace or softmax",
    "Mega.max_length": "most tokens of a segment, where it is causal without blocks",
    "MLSTM.d_key": "width of a head's keys; None: half of d_value",
    "NormAttention.norm": "of the output, in place of dividing by the sum of weights",
    "NormAttention.positions": "lrpe: queries and keys turn by learned angles",
    "Performer.kind": "of the features: softmax in expectation (positive, trigonometric), or relu",
    "QRNN.d_hidden": "width of the state; None: d_model",
    "Rebased.d_key": "width of a head's queries and keys, whose squares are the features",
    "Reformer.block_size": "tokens of a block within a bucket",
    "Reformer.num_buckets": "buckets of a round of hashing, even",
    "Reformer.rounds": "of hashing, each by other directions",
    "RetNet.d_value": "width of a head's values; None: twice d_key",
    "RetNet.positions": "of queries and keys: they turn, or xpos, which shrinks them too",
    "RGLRU.d_hidden": "width of the recurrence; None: d_model",
    "RGLRU.num_blocks": "diagonal blocks of the gates; divides the width",
    "RWKV4.d_hidden": "width of the sums; None: d_model",
    "RWKV7.decay_rank": "rank of what makes decays and strengths of a token",
    "RWKV7.gate_rank": "rank of what makes the output gate",
    "S4.d_state": "real size N of a channel's state, half as many conjugate pairs, even",
    "S4.chunk_size": "tokens computed at once, a power of two: speed, not results",
    "S4D.d_state": "real size N of a channel's state, half as many conjugate pairs, even",
    "S5.d_state": "real size of the state matrix",
    "S5.gate": "after GELU: half_glu1, half_glu2, full_glu, gelu alone; none: no GELU either",
    "S5.num_blocks": "equal diagonal blocks of the HiPPO matrix, of even size",
    "SimpleGLA.temperature": "τ: decays are to the power of 1 / τ, so that larger ones forget less",
    "Nystromformer.iterations": "steps of the iteration for the pseudo-inverse",
    "Sinkhorn.iterations": "rounds of normalising rows and columns",
    "Sinkhorn.temperature": "what the logarithms of the sorting matrix are divided by",
    "SLiCE.block_size": "channels of the state that a token mixes, 1 for none",
    "SLiCE.d_state": "size of the state, a multiple of block_size; None: d_model",
    "Swin.shift": "pixels by which windows are shifted; None: 0 and half a window in turns",
    "Swin.window": "pixels of a side of a window",
    "Synthesizer.kind": "dense: weights from the token; random: learned; factorized: of low rank",
    "Synthesizer.rank": "of the factorized kind",
    "Titans.base_lr": "largest rate of the inner training, times batch_size",
    "Titans.expansion": "width of the memory's hidden layers in units of a head's",
    "TransformerVQ.block_size": "tokens of a block of queries",
    "TransformerVQ.d_value": "width of a head's values; None: twice d_model / num_heads",
}


def says(module: type, name: str) -> str:
    """What there is to say of an argument of a mixer; empty where its author says nothing."""
    own = module.option_help.get(name)
    if own or not module.__module__.startswith(__package__):
        return own or SHARED.get(name, "")
    return OPTIONS.get(f"{module.__name__}.{name}") or OPTIONS.get(name) or SHARED.get(name, "")


def page(module: type) -> str:
    """A mixer's docstring with that of its file, its arguments with defaults, and an example."""
    about = inspect.cleandoc(module.__doc__ or "")
    for pointer in ("; see the module docstring.", " See the module docstring."):
        about = about.replace(pointer, "." if pointer.startswith(";") else "")
    parts = [about.replace("\n\nSee the module docstring.", "").strip()]
    parts.append(inspect.cleandoc(sys.modules[module.__module__].__doc__ or ""))
    lines = [
        _line(name, given, says(module, name))
        for name, given in parameters_of(module).items()
        if name != "self"
    ]
    if "causal" not in parameters_of(module) and module.causal_form:
        lines.insert(-1, f"    causal: bool = True  # {SHARED['causal']}")
    parts.append("Args:\n" + "\n".join(lines))
    own = inspect.getdoc(module.__init__) if "__init__" in vars(module) else None
    parts += [own] if own else []
    return "\n\n".join([*parts, _example(module)])


def _line(name: str, given: inspect.Parameter, said: str) -> str:
    kind = given.annotation if isinstance(given.annotation, str) else "Any"
    default = given.default
    if default is not inspect.Parameter.empty:
        shown = (
            default.__name__ if name.endswith("dtype") and default is not None else repr(default)
        )
        kind += f" = {shown}"
    return f"    {name}: {kind}" + (f"  # {said}" if said else "")


def _example(module: type) -> str:
    built = f"{module.__name__}(64, rngs=nnx.Rngs(0))"
    if not module.causal_form:
        return f"Example:\n    mixer = {built}\n    y = mixer(jnp.ones((2, 100, 64)))"
    return f"""Example:
    mixer = {built}
    y = mixer(jnp.ones((2, 100, 64)))
    y, state = mixer.extend(jnp.ones((2, 1, 64)), mixer.init_state(2))"""
