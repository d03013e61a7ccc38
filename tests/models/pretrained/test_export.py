"""Exported programs, run where neither this package nor Flax can be imported."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models import from_pretrained
from seqzoo.models.pretrained.export import LOADER, export_model
from tests.helpers import assert_close
from tests.models.pretrained.published import folder

pytestmark = pytest.mark.of_the_day("exported programs", 4)

LENGTH, BATCH = 6, 3
ELSEWHERE = """
import runpy, sys
for name in ("seqzoo", "flax", "orbax", "etils"):
    sys.modules[name] = None
import numpy as np
made = {}
for where in sys.argv[1:]:
    given = dict(np.load(where + "/given.npz"))
    model = runpy.run_path(where + "/load.py")["Model"]()
    made["whole"] = model.whole(given["tokens"], given["ids"])
    if hasattr(model, "step"):
        state = model.start(given["tokens"][:, 0])
        made["chunk"], state = model.prefill(state, given["tokens"], given["ids"])
        made["step"], state = model.step(state, given["next"])
    np.savez(where + "/made.npz", **made)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models by name, what programs of them were given, and what these said."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("exported")
    models, given = {}, {}
    for name in ("jamba", "bert_mlm"):
        models[name] = from_pretrained(folder(name), max_length=16)
        export_model(models[name], root / name, length=LENGTH)
        size = models[name].encoder.embed.num_embeddings
        ids = np.array([[1] * LENGTH, [0, 0, *[1] * (LENGTH - 2)], [1, 1, 1, 0, 0, 0]], np.int32)
        tokens = rng.integers(0, size, (BATCH, LENGTH), dtype=np.int32)
        given[name] = {"tokens": tokens, "ids": ids, "next": tokens[:, 2]}
        np.savez(root / name / "given.npz", **given[name])
    command = [sys.executable, "-c", ELSEWHERE, *(str(root / name) for name in models)]
    subprocess.run(command, check=True)
    return root, models, given


@pytest.mark.parametrize("name", ["jamba", "bert_mlm"])
def test_programs_say_what_the_model_says(made, name):
    root, models, given = made
    said, model = dict(np.load(root / name / "made.npz")), models[name]
    tokens, ids = (jnp.asarray(given[name][n]) for n in ("tokens", "ids"))
    assert_close(said["whole"], model(tokens, ids), ratio=1e-5)
    if name == "jamba":
        y, state = model.extend(tokens, model.init_state(BATCH), ids)
        assert_close(said["chunk"], y, ratio=1e-5)
        y, _ = model.extend(jnp.asarray(given[name]["next"])[:, None], state)
        assert_close(said["step"], y[:, 0], ratio=1e-5)


def test_the_folder_says_what_is_open_and_where_it_runs(made):
    root, _, _ = made
    about = json.loads((root / "jamba" / "about.json").read_text())
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["programs"]["step"]["inputs"] == ["int32", "(batch,)"]
    assert about["programs"]["prefill"]["inputs"] == ["int32", f"(batch, {LENGTH})"]
    about = json.loads((root / "bert_mlm" / "about.json").read_text())
    assert about["programs"].keys() == {"whole"}
    assert about["programs"]["whole"]["inputs"] == ["int32", "(batch, length)"]
    assert (root / "jamba" / LOADER).read_text().count("\n") <= 20


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"length": 4, "batch": 0}, "batch must be at least 1"),
        ({"length": 4, "platforms": ("gpu",)}, "some of cpu, cuda, tpu, rocm; got gpu"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(made, tmp_path, how, says):
    root, models, _ = made
    with pytest.raises(ValueError, match=says):
        export_model(models["jamba"], tmp_path / "new", **how)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="is not empty"):
        export_model(models["jamba"], root, length=4)
