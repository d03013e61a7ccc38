"""Plain modules as mixers: what they are given, and what is asked of them."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Mixer, ModelSpec, build_model, config_of
from seqzoo.models.foreign.plain import as_mixer
from tests.helpers import assert_close


class Plain(nnx.Module):
    """y_t = rate y_{t-1} + W x_t."""

    def __init__(self, d_model: int, *, rate: float = 0.5, steps=2, rngs: nnx.Rngs):
        self.rate = rate
        self.proj = nnx.Linear(d_model, d_model, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        decay = self.rate ** jnp.arange(x.shape[1])
        kernel = jnp.tril(
            jnp.exp(jnp.log(self.rate))
            ** (jnp.arange(x.shape[1])[:, None] - jnp.arange(x.shape[1]))
        )
        return self.drop(jnp.einsum("ts,bsd->btd", kernel, self.proj(x))) + 0 * decay[None, :, None]


class Linen(nn.Module):
    d_model: int
    rate: float = 0.5

    @nn.compact
    def __call__(self, x):
        return jnp.cumsum(nn.Dense(self.d_model)(x), axis=1) * self.rate


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.25
    kind: str = "a"


class Configured(nnx.Module):
    def __init__(self, d_model: int, config: Config = Config(kind="b"), *, rngs: nnx.Rngs):
        self.config, self.d_model = config, d_model

    def __call__(self, x):
        return jnp.cumsum(x, axis=1) * self.config.rate


IDS = np.array([[0, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]])


@pytest.mark.parametrize("kind", [Plain, Linen, Configured])
def test_padding_is_not_met_wherever_it_stands(kind):
    mixer = as_mixer(kind, kind.__name__)(4, rngs=nnx.Rngs(0))
    assert isinstance(mixer, Mixer)
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    garbage = jnp.where(IDS[..., None] > 0, x, jnp.nan)
    y = mixer(garbage, jnp.asarray(IDS))
    assert_close(y[0, [1, 3, 4]], mixer(x[:1, [1, 3, 4]])[0])
    assert_close(y[1, :3], mixer(x[1:, :3])[0])
    assert np.all(np.asarray(y)[IDS == 0] == 0)


def test_options_are_the_constructors_keywords_or_the_fields_of_its_dataclass():
    for kind, expected in (
        (Plain, {"rate": 0.5, "steps": 2}),
        (Linen, {"rate": 0.5}),
        (Configured, {"rate": 0.25, "kind": "b"}),
    ):
        assert config_of(as_mixer(kind, kind.__name__))().options() == expected
    made = config_of(as_mixer(Configured, "Configured"))(rate=2.0).build(4, rngs=nnx.Rngs(0))
    assert made.module.config == Config(rate=2.0, kind="b")


def test_dropout_is_on_in_training_alone():
    mixer, x = as_mixer(Plain, "Plain")(4, rngs=nnx.Rngs(0)), jnp.ones((1, 3, 4))
    assert_close(mixer(x), mixer(x))
    assert np.any(mixer(x, rngs=nnx.Rngs(1)) == 0)


@pytest.mark.of_the_day("plain beside ours", 3)
def test_it_stands_in_a_model_beside_ours():
    from seqzoo.models.foreign import address

    name = address.register(Plain)
    spec = ModelSpec(head="classify", vocab_size=5, outputs=3, length=6)
    model = build_model(spec, f"{name},lru", options={"Plain": {"rate": 0.75}}, rngs=nnx.Rngs(0))
    assert model(jnp.ones((2, 6), int)).shape == (2, 3)
    assert (model.state_growth, model.encoder.packing) == ("undeclared", "none")
    with pytest.raises(ValueError, match="Plain is a plain module and has no state"):
        model.encoder.init_state(1)


class NoWidth(nnx.Module):
    def __init__(self, dim, *, rngs): ...

    def __call__(self, x): ...


class NoRngs(nnx.Module):
    def __init__(self, d_model): ...

    def __call__(self, x): ...


class NoCall(nnx.Module):
    def __init__(self, d_model, *, rngs): ...


class NoDefault(nnx.Module):
    def __init__(self, d_model, rate: float, *, rngs): ...

    def __call__(self, x): ...


class HalfAMixer(Mixer):
    def __init__(self, d_model, *, rngs): ...


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (NoWidth, ["takes dim, rngs", "d_model first"]),
        (NoRngs, ["no keyword 'rngs'"]),
        (NoCall, ["no __call__"]),
        (NoDefault, ["option 'rate' needs a default"]),
        (HalfAMixer, ["a Mixer without _initial, _mix, state_size"]),
        (int, ["the class int", "nnx.Module"]),
        (7, ["a int", "name a class"]),
    ],
)
def test_what_is_no_mixer_is_one_sentence(value, words):
    with pytest.raises(ValueError, match=r"mine\.py:X") as caught:
        as_mixer(value, "mine.py:X")
    assert all(word in str(caught.value) for word in words), caught.value


def wrong(call):
    class Wrong(nnx.Module):
        def __init__(self, d_model, *, rngs): ...

        def __call__(self, x):
            return call(x)

    return as_mixer(Wrong, "mine.py:Wrong")(4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: x[:, :2], "gave \\(1, 2, 4\\) for rows of \\(1, 3, 4\\)"),
        (lambda x: (x, x), "gave tuple for rows"),
        (lambda x: x.astype(jnp.bfloat16), "gave bfloat16 for rows of float32"),
        (lambda x: jnp.fft.fft(x, axis=1), "gave complex64 for rows of float32"),
        (lambda x: x.astype(int), "gave int32 for rows of float32"),
    ],
)
def test_a_wrong_shape_or_dtype_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        wrong(call)(jnp.ones((1, 3, 4)))


def test_a_module_of_equinox_is_called_on_one_row():
    eqx = pytest.importorskip("equinox")

    class Eqx(eqx.Module):
        proj: eqx.nn.Linear
        rate: float

        def __init__(self, d_model: int, *, rate: float = 0.5, key):
            self.proj, self.rate = eqx.nn.Linear(d_model, d_model, key=key), rate

        def __call__(self, x):  # [length, d_model]
            return jnp.cumsum(jax.vmap(self.proj)(x), axis=0) * self.rate

    kind = as_mixer(Eqx, "mine.py:Eqx")
    assert config_of(kind)().options() == {"rate": 0.5}
    mixer = kind(4, rate=0.25, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 6, 4))
    y = mixer(jnp.where(IDS[..., None] > 0, x, jnp.nan), jnp.asarray(IDS))
    assert_close(y[0, [1, 3, 4]], mixer(x[:1, [1, 3, 4]])[0])
    sizes = [p.size for p in jax.tree.leaves(nnx.state(mixer, nnx.Param))]
    assert sum(sizes) == 4 * 4 + 4
    grads = nnx.grad(lambda m: jnp.sum(m(x) ** 2))(mixer)
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads))
