"""Laws of what any program may hand in: nothing, anything at padding, wrong things; copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models.mixer import AuxLoss, Constant, Mixer

from .cases import PACKED, B, C, L, chunked, normal, ragged
from .compare import expect
from .subject import Subject, flat


def nothing(s: Subject) -> None:
    """Rows without tokens and batches without rows are fine, and leave states as they are."""
    for shape in ((B, 0, s.d_model), (0, L, s.d_model)):
        y = s.mixer(np.zeros(shape, np.float32))
        expect(y.shape == shape, f"{y.shape} out of {shape}")
        if s.streams:
            state = s.mixer.init_state(shape[0])
            y, after = s.mixer.extend(np.zeros(shape, np.float32), state)
            expect(y.shape == shape, f"extend: {y.shape} out of {shape}")
            same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), state, after)
            expect(all(jax.tree.leaves(same)), f"{shape} changes the state")


def anything_at_padding(s: Subject) -> None:
    """NaN at padding, of x and of cotangents, reaches no output, state or gradient."""
    real = (s.ids > 0)[..., None]
    x, dy = normal(31, B, L, s.d_model), normal(32, B, L, s.d_model)
    clean = s.rows(np.where(real, x, 0), s.ids, np.where(real, dy, 0))
    dirty = s.rows(_spoilt(x, real), s.ids, _spoilt(dy, real))
    _same(s, dirty, clean)
    if s.streams:
        places = ragged(PACKED, 5)
        ids = chunked(PACKED, places, 0)
        x, dy = (chunked(a, places, 0) for a in (x, dy))
        real = (ids > 0)[..., None]
        _same(s, s.chunks(_spoilt(x, real), ids, _spoilt(dy, real)), s.chunks(x, ids, dy))


def _spoilt(a: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.where(real, a, np.nan).astype(np.float32)


def _same(s: Subject, dirty: tuple, clean: tuple) -> None:
    for what, a, b in zip(clean._fields, dirty, clean, strict=True):
        leaves = [leaf for leaf in jax.tree.leaves(a) if np.issubdtype(leaf.dtype, np.floating)]
        expect(all(np.isfinite(leaf).all() for leaf in leaves), f"{what} is not finite")
        s.close(flat(a), flat(b), what=what)


def wrong_inputs(s: Subject) -> None:
    """What cannot be is a ValueError, before anything is compiled."""
    m, d = s.mixer, s.d_model
    x = jnp.zeros((B, C, d))
    ids = jnp.ones((B, C), jnp.int32)
    wrong = {
        "one row": lambda: m(x[0]),
        "another width": lambda: m(jnp.zeros((B, C, d + 1))),
        "integers": lambda: m(x.astype(jnp.int32)),
        "booleans": lambda: m(x.astype(bool)),
        "complex numbers": lambda: m(x.astype(jnp.complex64)),
        "a list": lambda: m([[0.0]]),
        "ids of another length": lambda: m(x, ids[:, 1:]),
        "a mask for ids": lambda: m(x, ids > 0),
        "a number for rngs": lambda: m(x, rngs=0),
    }
    if s.streams:
        wrong["a state of more rows"] = lambda: m.extend(x, m.init_state(B + 1))
        wrong["no state"] = lambda: m.extend(x, None)
    for what, call in wrong.items():
        _refused(what, call)


def _refused(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        expect(False, f"{what}: {type(error).__name__} in place of ValueError: {error}")
    expect(False, f"{what} is taken")


def states_can_be_donated(s: Subject) -> None:
    """Every leaf of a state is a buffer of its own, and none is a parameter's."""
    arrays = [*jax.tree.leaves(s.mixer.init_state(B)), *jax.tree.leaves(nnx.state(s.mixer))]
    places = [a.unsafe_buffer_pointer() for a in arrays if a.size]
    expect(len(set(places)) == len(places), "two arrays share a buffer")


def copies(s: Subject) -> None:
    """A mixer is hashed, pickled, copied and built again to the same structure and numbers."""
    m = s.mixer
    structure = jax.tree.structure(m)
    hash(structure), hash(nnx.graphdef(m))
    made = {
        "pickle": pickle.loads(pickle.dumps(m)) if _found_by_name(m) else m,
        "deepcopy": copy.deepcopy(m),
        "nnx.clone": nnx.clone(m),
        "another build": s.make(s.d_model, rngs=nnx.Rngs(0)),
    }
    for what, other in made.items():
        expect(jax.tree.structure(other) == structure, f"{what}: another structure")
        pairs = zip(jax.tree.leaves(other), jax.tree.leaves(m), strict=True)
        expect(all(np.array_equal(a, b) for a, b in pairs), f"{what}: other numbers")
    abstract = nnx.eval_shape(lambda: s.make(s.d_model, rngs=nnx.Rngs(0)))
    expect(jax.tree.structure(abstract) == structure, "nnx.eval_shape: another structure")


def _found_by_name(m: Mixer) -> bool:
    """Whether all classes inside can be imported, as those of a function or of a file cannot."""
    kinds = {type(node) for _, node in nnx.iter_graph(m) if isinstance(node, nnx.Module)}
    try:
        return all(pickle.loads(pickle.dumps(kind)) is kind for kind in kinds)
    except (pickle.PicklingError, AttributeError, ImportError):
        return False


def evaluation_writes_nothing(s: Subject) -> None:
    """A closure over the mixer can be traced, and evaluation changes no variable."""
    before = [id(leaf) for leaf in jax.tree.leaves(nnx.state(s.mixer))]
    jax.make_jaxpr(lambda x: s.mixer(x))(jnp.zeros((B, C, s.d_model)))
    after = [id(leaf) for leaf in jax.tree.leaves(nnx.state(s.mixer))]
    expect(before == after, "a variable is another one after evaluation")


def past_the_end(s: Subject) -> None:
    """More tokens than `max_length` are an error in both forms."""
    most = s.mixer.max_length
    if most is None:
        return
    x = np.zeros((1, most + 1, s.d_model), np.float32)
    ids = np.ones(x.shape[:2], np.int32)
    forms = {
        "a call": lambda: s.mixer(x),
        "a call with ids": lambda: s.mixer(x, ids),
        "a traced call": lambda: jax.eval_shape(s.mixer, x),
    }
    if s.streams:
        state = s.mixer.init_state(1)
        last = state._replace(position=state.position + most, segment_id=state.segment_id + 1)
        forms["extend"] = lambda: s.mixer.extend(x, state)
        forms["a step"] = lambda: s.mixer.extend(x[:, :1], last)
    for what, call in forms.items():
        _refused(what, call)


def padding_teaches_nothing(s: Subject) -> None:
    """In training mode a batch of padding alone changes no statistic."""
    statistics = nnx.Not(nnx.Any(nnx.Param, Constant, AuxLoss))
    graphdef, written, rest = nnx.split(s.mixer, statistics, ...)
    if not jax.tree.leaves(written):
        return

    def call(written, key):
        mixer = nnx.merge(graphdef, written, rest, copy=True)
        ids = jnp.zeros((B, L), jnp.int32)
        mixer(jnp.full((B, L, s.d_model), jnp.nan), ids, rngs=nnx.Rngs(key))
        return nnx.state(mixer, statistics)

    after = jax.jit(call)(written, jax.random.key(0))
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(written), jax.tree.leaves(after), strict=True
    ):
        expect(np.array_equal(old, new), f"padding changes {jax.tree_util.keystr(path)}")
