import pickle

import numpy as np
import pytest

from seqzoo.tasks.lra.pathfinder import Pathfinder, PathfinderGenerated, PathX, PathXGenerated
from tests.tasks import published

SIZES = {"train_size": 4, "validation_size": 1, "test_size": 1}
HARD = "pathfinder32/curv_contour_length_14"


def values(source):
    return [round(float(example["inputs"][0, 0]) * 255 / 7) for example in source]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("above", ["lra_release/lra_release", "lra_release", "."])
def test_official_pictures_are_read(tmp_path, binary, above):
    published.pathfinder(tmp_path / above / HARD, binary=binary)
    task = Pathfinder(data=str(tmp_path), **SIZES)
    found = []
    for split, size in (("train", 4), ("validation", 1), ("test", 1)):
        source = pickle.loads(pickle.dumps(task.source(split)))
        assert len(source) == size
        assert source[0]["inputs"].shape == (1024, 1)
        for value, example in zip(values(source), source, strict=True):
            assert example["targets"] == value % 2
        found += values(source)
    assert found == [5, 3, 0, 1, 4, 2]  # pinned: the split may never change


def test_the_inner_copy_of_path_x_is_taken(tmp_path):
    inside = "pathfinder128/curv_contour_length_14"
    published.pathfinder(tmp_path / "lra_release" / inside, count=2, size=128)
    published.pathfinder(tmp_path / "lra_release/lra_release" / inside, count=4, size=128)
    task = PathX(data=str(tmp_path), train_size=2, validation_size=1, test_size=1)
    assert task.spec.length == 16_384
    assert len(task.source("train")) == 2


def test_empty_pictures_are_skipped_and_counted(tmp_path):
    published.pathfinder(tmp_path / HARD, empty=2)
    with pytest.warns(UserWarning, match="1 empty pictures are skipped: imgs/0/sample_2.png"):
        source = Pathfinder(data=str(tmp_path), **SIZES).source("train")
    assert len(source) == 3
    assert 2 not in values(source)


def test_tokens_are_grey_values(tmp_path):
    published.pathfinder(tmp_path / HARD)
    task = Pathfinder(data=str(tmp_path), protocol="google2020", **SIZES)
    example = task.source("test")[0]
    assert (task.spec.vocab_size, task.spec.length, task.spec.pooling) == (256, 1024, "mean")
    assert set(example["inputs"].tolist()) <= {7 * i for i in range(6)}
    assert task.decode(example).count("\n") == 32


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("imgs/0/sample_1.png", published.png(np.zeros((8, 8))), r"1\): .*must be 32 x 32"),
        ("metadata/1.npy", b"imgs/1 sample_3.png 3 1\n", "1.npy, line 1: 4 columns"),
        ("metadata/1.npy", b"a b 0 2 1 14 4 2 0.5 1 1\n", "1.npy, line 1: malformed"),
        ("metadata/1.npy", b".. b 0 1 1 14 4 2 0.5 1 1\n", "1.npy, line 1: malformed"),
        ("metadata/1.npy", b"imgs/1 x.png 0 1 1 14 4 2 0.5 1 1\n", "1.npy, line 1: there is no"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, file, content, message):
    published.pathfinder(tmp_path / HARD)
    (tmp_path / HARD / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Pathfinder(data=str(tmp_path), **SIZES).source("train")


def test_an_array_of_objects_is_not_loaded(tmp_path):
    published.pathfinder(tmp_path / HARD)
    np.save(tmp_path / HARD / "metadata/1.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        Pathfinder(data=str(tmp_path), **SIZES).source("train")


def test_changed_pictures_are_read_again(tmp_path):
    published.pathfinder(tmp_path / HARD)
    task = Pathfinder(data=str(tmp_path), **SIZES)
    before = sorted(values(task.source("train")))
    for path in (tmp_path / HARD / "imgs").rglob("*.png"):
        path.write_bytes(published.png(np.full((32, 32), 70)))
    assert sorted(values(task.source("train"))) == [10] * 4 != before


def test_missing_data_says_what_to_fetch(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        PathX(data=str(tmp_path)).source("train")
    for word in ("path_x", "lra_release.gz", "8 GB", "pathfinder128", "--data.data"):
        assert word in str(caught.value)


def test_generated_sets_are_functions_of_split_seed_and_index(cache_folder):
    task = PathfinderGenerated(train_size=3, validation_size=3, test_size=3)
    lazy = task.source("train")
    assert not cache_folder.exists()
    digests = {
        (split, seed): task.source(split, seed)[1]["inputs"].tobytes()
        for split, seed in (("train", 0), ("train", 1), ("test", 0), ("test", 1), ("validation", 0))
    }
    assert digests["test", 0] == digests["test", 1]
    assert len(set(digests.values())) == 4
    prepared = task.prepare("train", progress=False, workers=1)
    for i in range(3):
        assert np.array_equal(prepared[i]["inputs"], lazy[i]["inputs"])
    assert len(list(cache_folder.glob("pathfinder32_generated-*"))) == 3
    assert "Generated" in task.notes[0]
    assert task.baselines()["majority class"] >= 0.5


def test_options_of_the_generator():
    assert PathfinderGenerated().recipe.distractors == 5
    assert PathfinderGenerated(difficulty="easy").recipe.contour_length == 6
    assert PathfinderGenerated(difficulty="easy").recipe.distractors == 10
    doubled = PathXGenerated(distractors=17, snake_contrast=0.767).recipe
    assert (doubled.size, doubled.distractors, doubled.snake_contrast) == (128, 17, 0.767)
    assert PathXGenerated().recipe.distractors == 8
    with pytest.raises(ValueError, match="unknown resolution 33; valid: 32, 64, 128, 256"):
        PathfinderGenerated(resolution=33)
