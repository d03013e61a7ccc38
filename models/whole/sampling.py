"""Text from a language model, token by token, with the state that the model streams with.

    tokens = sample(model, prompt, 100, jax.random.key(0), temperature=0.8, top_p=0.95)

One compiled program for a model, shape and number of tokens; cost and memory of a step are those of
`model.extend` with one token, whatever was read before. generation.py has the same token by token,
in programs for any number of them.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from seqzoo.models.mixer import StreamState
from seqzoo.models.whole.encoder_decoder import EncoderDecoder
from seqzoo.models.whole.sequence_model import SequenceModel


class Rule(NamedTuple):
    """What is static of how tokens are drawn; a program each."""

    greedy: bool
    top_k: int
    nucleus: bool
    floor: bool
    penalised: bool


class Levels(NamedTuple):
    """What is not, of any program."""

    temperature: Array
    top_p: Array
    min_p: Array
    penalty: Array


def sample(
    model: SequenceModel,
    prompt: Int[Array, "B P"],
    length: int,
    key: Key[Array, ""],
    *,
    segment_ids: Int[Array, "B P"] | None = None,
    **how: float,
) -> Int[Array, "B length"]:
    """`length` tokens that continue each row of `prompt`.

    Token t is `draw(logits, jax.random.fold_in(key, t), ...)` of the logits after all before it.

    Args:
        model: a causal language model, in float parameters of any kind.
        prompt: tokens, at least one real one a row.
        length: how many tokens to draw, at least 1.
        key: of the draws.
        segment_ids: 0 where the prompt is padding, as with rows of different lengths.
        how: `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty` of `draw`.

    Raises:
        ValueError: the model is no causal language model, its state cannot hold prompt and tokens,
            or an option is outside its range.
    """
    if isinstance(model, EncoderDecoder):
        raise ValueError("an encoder-decoder writes another text than it reads; use generate")
    rule, levels = rule_of(**how)
    check_room(model, prompt.shape[1], length)
    ids = jnp.ones(prompt.shape, jnp.int32) if segment_ids is None else segment_ids
    return _sampled(model, prompt, ids, key, levels, length=length, rule=rule)


def draw(
    logits: Float[Array, "*B V"],
    key: Key[Array, ""],
    *,
    seen: Bool[Array, "*B V"] | None = None,
    **how: float,
) -> Int[Array, "*B"]:
    """One token for each row of logits. Of equal logits all or none count.

    The penalty comes first, then the temperature, `top_k`, `top_p` of the distribution that is left
    and `min_p`.

    Args:
        logits: before any softmax.
        key: of the draw.
        seen: the tokens that the penalty is for, those of the row so far.
        how: `temperature`: logits are divided by it; 0 takes the likeliest token. `top_k`: only the
            k likeliest tokens; 0 for all. `top_p`: only the likeliest tokens that together have
            this probability (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751), in (0, 1].
            `min_p`: only tokens with at least this share of the likeliest one's probability
            (Nguyen et al. 2024, arXiv:2407.01082), in [0, 1). `repetition_penalty`: logits of
            `seen` tokens are divided by it where positive, else multiplied (CTRL, Keskar et al.
            2019, arXiv:1909.05858); 1 for none.

    Raises ValueError for an option outside its range, and a penalty without `seen`.
    """
    rule, levels = rule_of(**how)
    if rule.penalised and seen is None:
        raise ValueError("repetition_penalty needs seen, the tokens that each row had so far")
    return pick(logits, key, rule, levels, seen)


def rule_of(
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> tuple[Rule, Levels]:
    """The options of `draw`, checked. Raises ValueError for one outside its range."""
    for name, value in (("temperature", temperature), ("top_k", top_k)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is finite and not negative; got {value}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is in (0, 1]; got {top_p}")
    if not 0 <= min_p < 1:
        raise ValueError(f"min_p is in [0, 1); got {min_p}")
    if not 0 < repetition_penalty < math.inf:
        raise ValueError(f"repetition_penalty is finite and above 0; got {repetition_penalty}")
    rule = Rule(temperature == 0, top_k, top_p < 1, min_p > 0, repetition_penalty != 1)
    levels = (temperature or 1.0, top_p, min_p, repetition_penalty)
    return rule, Levels(*map(jnp.float32, levels))


def check_room(model: SequenceModel | EncoderDecoder, prompt: int, length: int) -> None:
    """Raises ValueError where a model cannot continue a prompt of so many tokens so far."""
    if model.head != "lm":
        raise ValueError(f"sampling needs a language model, head='lm'; got {model.head!r}")
    written = model.decoder if isinstance(model, EncoderDecoder) else model.encoder
    most = written.max_length if model.state_growth == "linear" else None
    # The last token drawn is not read.
    if length < 1 or (most is not None and prompt + length - 1 > most):
        limit = "" if most is None else f", and with the prompt at most max_length={most}"
        raise ValueError(f"length is at least 1{limit}; got {length=} after a prompt of {prompt}")


@functools.partial(jax.jit, static_argnames=("length", "rule"))
def _sampled(
    model: SequenceModel,
    prompt: Array,
    ids: Array,
    key: Array,
    levels: Levels,
    *,
    length: int,
    rule: Rule,
) -> Int[Array, "B length"]:
    logits, state = model.extend(prompt, model.init_state(len(prompt)), ids)
    last = jnp.where(ids > 0, jnp.arange(ids.shape[1]), 0).max(1)
    logits = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]
    seen = None
    if rule.penalised:
        rows = jnp.arange(len(prompt))[:, None]
        seen = jnp.zeros(logits.shape, bool).at[rows, prompt].max(ids > 0)

    def body(carry: tuple, t: Array) -> tuple[tuple, Array]:
        carry = following(model, *carry, jax.random.fold_in(key, t), rule, levels)
        return carry, carry[0]

    token = pick(logits, jax.random.fold_in(key, 0), rule, levels, seen)
    carry = token, state, marked(seen, token)
    _, tokens = jax.lax.scan(body, carry, jnp.arange(1, length))
    return jnp.concatenate([token[:, None], jnp.moveaxis(tokens, 0, 1)], axis=1)


def following(
    model: SequenceModel,
    token: Int[Array, "B"],
    state: StreamState,
    seen: Bool[Array, "B V"] | None,
    key: Key[Array, ""],
    rule: Rule,
    levels: Levels,
) -> tuple[Int[Array, "B"], StreamState, Bool[Array, "B V"] | None]:
    """The next token of each row, and state and tokens seen with it."""
    logits, state = model.extend(token[:, None], state)
    token = pick(logits[:, 0], key, rule, levels, seen)
    return token, state, marked(seen, token)


def marked(seen: Bool[Array, "B V"] | None, token: Int[Array, "B"]) -> Array | None:
    """The tokens seen, with these; None where nobody asks."""
    return None if seen is None else seen.at[jnp.arange(len(token)), token].set(True)


def pick(
    logits: Float[Array, "*B V"], key: Array, rule: Rule, levels: Levels, seen: Array | None
) -> Int[Array, "*B"]:
    """`draw` with checked options."""
    logits = filtered(logits, rule, levels, seen)
    if rule.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def filtered(
    logits: Float[Array, "*B V"], rule: Rule, levels: Levels, seen: Array | None
) -> Float[Array, "*B V"]:
    """The logits that are drawn from; -inf for what is not."""
    if rule.penalised:
        penalised = jnp.where(logits > 0, logits / levels.penalty, logits * levels.penalty)
        logits = jnp.where(seen, penalised, logits)
    if rule.greedy:
        return logits
    logits = logits / levels.temperature
    if 0 < rule.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, rule.top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if rule.nucleus:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), -1)
        p = jax.nn.softmax(ordered)
        kept = jnp.cumsum(p, axis=-1) - p < levels.top_p  # of those that are likelier
        least = jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if rule.floor:
        least = logits.max(-1, keepdims=True) + jnp.log(levels.min_p)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
