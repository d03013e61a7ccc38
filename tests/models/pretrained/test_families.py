"""Whole published models, every form, and their files again."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from seqzoo.models import from_pretrained, save_pretrained
from tests.models.pretrained.published import NAMES, compared, differences, folder, published

COMPUTED = ("model.lower_bounds",)  # of HGRN2: logarithms of what is kept


@pytest.mark.parametrize("name", [name for name in NAMES if name != "longformer_mlm"])
def test_logits_equal_the_published_ones_and_the_files_come_out_as_they_were(name, tmp_path):
    model = from_pretrained(folder(name))
    found = compared(model, published(name))
    assert max(found.values()) < 2e-5, found
    save_pretrained(model, tmp_path / "again")
    assert_same_files(folder(name), tmp_path / "again")


def assert_same_files(first, second):
    before, after = (load_file(f / "model.safetensors") for f in (first, second))
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert (array.dtype, array.shape) == (after[name].dtype, after[name].shape), name
        if name in COMPUTED:
            np.testing.assert_allclose(array, after[name], rtol=1e-5, atol=1e-6)
        else:
            assert array.tobytes() == after[name].tobytes(), name


@pytest.mark.of_the_day("global tokens")
def test_global_tokens_of_longformer_are_an_option():
    found = differences("longformer_mlm")
    assert found.keys() == {"whole", "padded", "packed"}
    assert max(found.values()) < 2e-5, found
    with pytest.raises(ValueError, match="global_position"):
        from_pretrained(folder("llama"), global_positions=(0,))
