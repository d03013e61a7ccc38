"""What a stream carries is kept: by jax.export, in files, for another process."""

import functools
import pickle
import subprocess
import sys
from pathlib import Path  # noqa: F401  (for the other process)

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from seqzoo.models import build
from tests import laws
from tests.flags import ROOT, set_flags
from tests.models.subjects import causal_form, options
from tests.models.tiny import TINY

NAMES = [name for name in TINY if causal_form(name)]


def made(name):
    return build(name.split("@")[0], laws.D, rngs=nnx.Rngs(0), **options(name))


@pytest.mark.of_the_day("serialised")
def test_programs_over_states_are_serialised():
    pytest.importorskip("flatbuffers", reason="jax.export writes with it")

    def leave(state):
        return state

    for name in (name for name in NAMES if "@" not in name):
        state = jax.eval_shape(lambda name=name: made(name).init_state(2))
        program = jax.export.export(jax.jit(leave))(state)
        again = jax.export.deserialize(program.serialize())
        assert again.in_tree == program.in_tree, name


def continued(mixer, state):
    x = laws.normal(3, 2, 4, laws.D)
    y, state = jax.jit(type(mixer).extend)(mixer, x, state)
    return [y, *jax.tree.leaves(state)]


def go_on(folder):
    """In another process: everything is read, and every stream goes on."""
    set_flags()
    mixers = pickle.loads((folder / "mixers").read_bytes())
    shapes = {name: nnx.state(mixer, nnx.Param) for name, mixer in mixers.items()}
    params = ocp.StandardCheckpointer().restore(folder / "params", nnx.as_pure(shapes))
    found = {}
    for name, mixer in mixers.items():
        state = mixer.init_state(2)
        kept = np.load(folder / f"{name}.npz")
        leaves = [jnp.asarray(kept[f"arr_{i}"]) for i in range(len(kept.files))]
        nnx.update(mixer, params[name])
        found[name] = continued(mixer, jax.tree.unflatten(jax.tree.structure(state), leaves))
    (folder / "found").write_bytes(pickle.dumps(jax.device_get(found)))


@pytest.mark.slow
def test_a_stream_goes_on_bitwise_in_another_process(tmp_path):
    mixers = {name: made(name) for name in NAMES}
    expected = {}
    for name, mixer in mixers.items():
        x = laws.normal(4, 2, 5, laws.D)
        _, state = jax.jit(functools.partial(type(mixer).extend))(mixer, x, mixer.init_state(2))
        np.savez(tmp_path / f"{name}.npz", *jax.tree.leaves(state))
        expected[name] = jax.device_get(continued(mixer, state))
    params = {name: nnx.state(mixer, nnx.Param) for name, mixer in mixers.items()}
    with ocp.StandardCheckpointer() as keeper:
        keeper.save(tmp_path / "params", nnx.as_pure(params))
    (tmp_path / "mixers").write_bytes(pickle.dumps(mixers))
    call = "from tests.models.test_kept_states import *; go_on(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", call, str(tmp_path)], check=True, cwd=ROOT)
    found = pickle.loads((tmp_path / "found").read_bytes())
    for name in NAMES:
        for a, b in zip(found[name], expected[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
