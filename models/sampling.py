"""Text from a language model, token by token, with the state that the model streams with.

    tokens = sample(model, prompt, 100, jax.random.key(0), temperature=0.8, top_p=0.95)

One compiled program for a model, shape and number of tokens; cost and memory of a step are those of
`model.extend` with one token, whatever was read before.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from seqzoo.models.heads import SequenceModel


class _Rule(NamedTuple):
    """What is static of how tokens are drawn."""

    greedy: bool
    top_k: int
    nucleus: bool


def sample(
    model: SequenceModel,
    prompt: Int[Array, "B P"],
    length: int,
    key: Key[Array, ""],
    *,
    segment_ids: Int[Array, "B P"] | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int[Array, "B length"]:
    """`length` tokens that continue each row of `prompt`.

    Token t is `draw(logits, jax.random.fold_in(key, t), ...)` of the logits after all before it.

    Args:
        model: a causal language model, in float parameters of any kind.
        prompt: tokens, at least one real one a row.
        length: how many tokens to draw, at least 1.
        key: of the draws.
        segment_ids: 0 where the prompt is padding, as with rows of different lengths.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only the k likeliest tokens; 0 for all.
        top_p: only the likeliest tokens that together have this probability (nucleus sampling,
            Holtzman et al. 2020, arXiv:1904.09751), in (0, 1].

    Raises:
        ValueError: the model is no causal language model, its state cannot hold prompt and tokens,
            or an option is outside its range.
    """
    if model.head != "lm":
        raise ValueError(f"sampling needs a language model, head='lm'; got {model.head!r}")
    rule = _rule(temperature, top_k, top_p)
    most = model.encoder.max_length if model.state_growth == "linear" else None
    # The last token drawn is not read.
    if length < 1 or (most is not None and prompt.shape[1] + length - 1 > most):
        limit = "" if most is None else f", and with the prompt at most max_length={most}"
        raise ValueError(
            f"length is at least 1{limit}; got {length=} after a prompt of {prompt.shape[1]}"
        )
    ids = jnp.ones(prompt.shape, jnp.int32) if segment_ids is None else segment_ids
    options = jnp.float32(temperature or 1.0), jnp.float32(top_p)
    return _sampled(model, prompt, ids, key, options, length=length, rule=rule)


def draw(
    logits: Float[Array, "*B V"],
    key: Key[Array, ""],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int[Array, "*B"]:
    """One token for each row of logits; options as in `sample`. Of equal logits all or none count.

    The temperature comes first, then `top_k`, then `top_p` of the distribution that is left.
    """
    rule = _rule(temperature, top_k, top_p)
    return _draw(logits, key, rule, (temperature or 1.0, top_p))


def _rule(temperature: float, top_k: int, top_p: float) -> _Rule:
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(
            "temperature and top_k are not negative, and top_p is in (0, 1]; got "
            f"{temperature=}, {top_k=}, {top_p=}"
        )
    return _Rule(temperature == 0, top_k, top_p < 1)


@functools.partial(jax.jit, static_argnames=("length", "rule"))
def _sampled(
    model: SequenceModel,
    prompt: Array,
    ids: Array,
    key: Array,
    options: tuple[Array, Array],
    *,
    length: int,
    rule: _Rule,
) -> Int[Array, "B length"]:
    logits, state = model.extend(prompt, model.init_state(len(prompt)), ids)
    last = jnp.where(ids > 0, jnp.arange(ids.shape[1]), 0).max(1)
    logits = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]

    def body(carry: tuple, t: Array) -> tuple[tuple, Array]:
        token, state = carry
        logits, state = model.extend(token[:, None], state)
        token = _draw(logits[:, 0], jax.random.fold_in(key, t), rule, options)
        return (token, state), token

    token = _draw(logits, jax.random.fold_in(key, 0), rule, options)
    _, tokens = jax.lax.scan(body, (token, state), jnp.arange(1, length))
    return jnp.concatenate([token[:, None], jnp.moveaxis(tokens, 0, 1)], axis=1)


def _draw(logits: Array, key: Array, rule: _Rule, options: tuple) -> Int[Array, "*B"]:
    if rule.greedy:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    temperature, top_p = options
    logits = logits / temperature
    if 0 < rule.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, rule.top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if rule.nucleus:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), -1)
        p = jax.nn.softmax(ordered)
        kept = jnp.cumsum(p, axis=-1) - p < top_p  # of those that are likelier
        least = jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
