"""The archives' files in exactly their formats, their faults, and the published protocol."""

import importlib.util
import pickle
import re

import jax
import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.tasks.data.arrays import read_array, read_pickle
from seqzoo.tasks.series import archive, permutation, text, uea
from tests.tasks import published

NAME = "Steps"


@pytest.fixture
def written(tmp_path):
    """A set of 14 and 6 rows as .ts; a training row is there twice."""
    rows, labels = published.series(20)
    rows[13] = rows[2]
    published.series_ts(tmp_path / f"{NAME}_TRAIN.ts", rows[:14], labels[:14])
    published.series_ts(tmp_path / f"{NAME}_TEST.ts", rows[14:], labels[14:])
    return np.float32(rows), labels


def build(root, **options):
    return tasks.build("uea", **{"data": str(root), "dataset": NAME, **options})


def test_ts_and_arff_are_read_alike(written, tmp_path):
    rows, labels = written
    published.series_arff(tmp_path / "S.arff", rows[:14], labels[:14])
    published.series_arff(tmp_path / "One.arff", rows[:3, :, :1], labels[:3])
    for name in (f"{NAME}_TRAIN.ts", "S.arff"):
        found = list(text.rows(tmp_path / name))
        assert np.array_equal([row.values for row in found], rows[:14])
        assert [row.label for row in found] == labels[:14]
    one = np.array([row.values for row in text.rows(tmp_path / "One.arff")])
    assert np.array_equal(one, rows[:3, :, :1])


def test_permutations_are_those_of_jax_before_0_5():
    with jax.threefry_partitionable(False):
        key = jax.random.PRNGKey(2345)
        assert np.array_equal(key, permutation.key_of(2345))
        assert np.array_equal(jax.random.split(key, 4), permutation.split(np.asarray(key), 4))
        for size in (259, 2000):  # of 2000 numbers there are two rounds
            ours = permutation.permutation(permutation.key_of(2345), size)
            assert np.array_equal(jax.random.permutation(key, size), ours)


def test_the_published_split_is_of_all_different_rows(written, tmp_path):
    """As the code of Log-NCDE makes it: unique rows, four keys of the seed, two of the first."""
    rows, labels = written
    places = np.unique(rows, axis=0, return_index=True)[1]
    assert len(places) == 19
    for seed in uea.SEEDS[:2]:
        data_key = permutation.split(permutation.key_of(seed), 4)[0]
        order = permutation.permutation(permutation.split(data_key)[0], 19)
        task, begin = build(tmp_path, split_seed=seed), 0
        for split, size in (("train", 13), ("validation", 3), ("test", 3)):
            source = task.source(split)
            assert len(source) == size
            for i, place in enumerate(places[order][begin : begin + size]):
                assert np.array_equal(source[i]["inputs"], rows[place])
                assert source[i]["targets"] == ("rest", "walk").index(labels[place])
            begin += size


def test_prepared_arrays_have_the_same_splits(written, tmp_path):
    rows, labels = written
    places = np.unique(rows, axis=0, return_index=True)[1]
    numbers = np.array([("rest", "walk").index(label) for label in labels])
    for folder, save in (("a", np.save), ("b", dump)):
        own = tmp_path / folder / NAME
        own.mkdir(parents=True)
        suffix = ".npy" if save is np.save else ".pkl"
        save(own / f"data{suffix}", rows[places])
        save(own / f"labels{suffix}", numbers[places])
        for split in ("train", "test"):
            prepared, text_files = (build(root).source(split) for root in (own.parent, tmp_path))
            assert len(prepared) == len(text_files)
            for one, two in zip(prepared, text_files, strict=False):
                assert np.array_equal(one["inputs"], two["inputs"])
                assert one["targets"] == two["targets"]
        with pytest.raises(ValueError, match="in one, so the archive's split is not known"):
            build(own.parent, protocol="archive").source("test")


def dump(path, array):
    path.write_bytes(pickle.dumps(jax.numpy.asarray(array) if "data" in path.name else array))


def test_a_pickle_runs_nothing(tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path / "harm").write_text, ("done",)

    for harm in (Harm(), [np.zeros(2), Harm()], {"a": Harm()}):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(harm))
        with pytest.raises(ValueError, match=r"x\.pkl is a pickle that names .*numpy\.save"):
            read_pickle(tmp_path / "x.pkl")
    assert not (tmp_path / "harm").exists()
    for protocol in range(2, 6):
        whole = {"a": np.arange(6).reshape(2, 3).T, "b": [np.float64(1.5), "text", None]}
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(whole, protocol))
        found = read_pickle(tmp_path / "x.pkl")
        assert np.array_equal(found["a"], whole["a"])
        assert found["b"] == whole["b"]
    with pytest.raises(ValueError, match="holds dict, not an array"):
        read_array(tmp_path / "x.pkl")
    np.save(tmp_path / "x.npy", np.zeros(2, np.complex64))
    with pytest.raises(ValueError, match="holds complex64 values, not an array"):
        read_array(tmp_path / "x.npy")


def test_arrays_are_what_float32_holds(tmp_path):
    rows = np.zeros((2, 3, 1))
    for value, label, said in (
        (1e99, 0, r"data\.npy has values that are not finite"),
        (np.inf, 0, r"data\.npy has values that are not finite"),
        (0, -1, r"a whole number from 0 on for each row"),
    ):
        rows[1, 1] = value
        np.save(tmp_path / "data.npy", rows)
        np.save(tmp_path / "labels.npy", np.array([0, label]))
        with pytest.raises(ValueError, match=said):
            archive.read((tmp_path / "data.npy", tmp_path / "labels.npy"), NAME)


def test_protocol_archive_standardises_by_its_training_rows(written, tmp_path):
    rows, _ = written
    task = build(tmp_path, protocol="archive")
    sources = {split: task.source(split) for split in ("train", "validation", "test")}
    assert {split: len(source) for split, source in sources.items()} == {
        "train": 12, "validation": 2, "test": 6
    }  # fmt: skip
    train = np.stack([example["inputs"] for example in sources["train"]]).reshape(-1, 2)
    assert np.abs(train.mean(0)).max() < 1e-6
    assert np.abs(train.std(0) - 1).max() < 1e-6
    shifted = np.stack([example["inputs"] for example in sources["test"]]) - rows[14:]
    plain = build(tmp_path, protocol="archive", normalise="none").source("test")
    assert np.array_equal(np.stack([example["inputs"] for example in plain]), rows[14:])
    assert np.abs(shifted).max() > 0.01
    assert task.baselines() == {"majority class": 0.5}
    assert task.decode(sources["test"][0]).endswith(("rest", "walk"))


def test_times_gaps_and_lengths_become_inputs(tmp_path):
    nan = np.nan
    rows = [np.array([[nan, 1.0], [2.0, nan], [nan, 3.0]]), np.array([[4.0, 5.0], [6.0, 7.0]])]
    stamps = [(0, 1.5, 4.0), ("2020-01-01 00:00:00", "2020-01-01 00:00:01")]
    for part in archive.PARTS:
        path = tmp_path / f"{NAME}_{part}.ts"
        published.series_ts(path, rows * 2, ["a", "b"] * 2, stamps * 2)
    task = build(tmp_path, protocol="archive", normalise="none", missing="flag")
    assert (task.spec.features, task.spec.length, task.spec.outputs) == (5, 3, 2)
    first, second = task.source("test")[0], task.source("test")[1]
    expected = [[0, 0, 1, 0, 1], [0.375, 2, 1, 1, 0], [1, 2, 3, 0, 1]]
    assert np.array_equal(first["inputs"], np.float32(expected))
    expected = [[0, 4, 5, 1, 1], [0.25, 6, 7, 1, 1], [0, 0, 0, 0, 0]]
    assert np.array_equal(second["inputs"], np.float32(expected))
    assert second["segment_ids"].tolist() == [1, 1, 0]
    with pytest.raises(ValueError, match="2 to 3 steps; protocol uea is of sets of equal lengths"):
        build(tmp_path).source("train")
    published.series_ts(path, rows, ["a", "b"], [(0, "inf", 4.0), stamps[1]])
    with pytest.raises(ValueError, match=r"the time 'inf' is not finite"):
        build(tmp_path, protocol="archive").source("train")
    published.series_ts(path, rows * 2, ["a", "b"] * 2, stamps * 2)
    some = build(tmp_path, protocol="archive", normalise="none", keep=0.67).source("test")[0]
    assert some["segment_ids"].tolist() == [1, 1]
    assert set(some["inputs"][:, 0].tolist()) < {0, 0.375, 1}


WRONG = [
    (r"(?m)^0\.\d+,", "half,", r"TRAIN.ts, line \d+: value 0 is 'half', no number; mend that line"),
    (r"(?m)^-?\d\.\d+,", "1e99,", r"TRAIN.ts, line \d+: value 0 is 1e99, which is not finite"),
    (r"(?m)^([^@#]\S+),\S+?:(\S+)$", r"\1:\2", r"line \d+: channels have 4 to 5 steps"),
    (r"(?m):walk$", ":run", r"TRAIN.ts, line \d+: class 'run' is none of rest, walk"),
    (r"(?m)^([^@#]\S+?):\S+:", r"\1:", r"TRAIN.ts, line \d+: there are 2 channels, not 1"),
    (r"@data\n", "", r"TRAIN.ts, line 7: '.*' stands before @data"),
    (r"@classLabel.*\n", "", r"TRAIN.ts, line 6: no line @classLabel true A B"),
    (r"@classLabel.*\n", "@targetLabel true\n", r"TRAIN.ts, line 7: @targetLabel says that"),
    (r"@classLabel.*\n", "@classLabel true rest walk x\n", r"are of two versions of Steps"),
    (r"(?m)^(?![@#]).*\n", "", r"TRAIN.ts has no rows"),
]


@pytest.mark.parametrize(("pattern", "new", "said"), WRONG)
def test_a_wrong_line_is_named(written, tmp_path, pattern, new, said):
    path = tmp_path / f"{NAME}_TRAIN.ts"
    whole = path.read_text()
    once = 0 if "\\n" in pattern and "(?!" in pattern else 1
    changed = re.sub(pattern, new, whole, count=once)
    assert changed != whole
    path.write_text(changed)
    with pytest.raises(ValueError, match=said):
        build(tmp_path).source("train")


ARFF = """@relation x
@attribute a relational
@attribute b numeric
@end a
@attribute c {p,q}
@data
"""
STAMPS = "@timeStamps true\n@univariate true\n@classLabel true p q\n@data\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.arff", f"{ARFF}'1,2\\n3,4',p\n1,2,p\n", r"x\.arff, line 8: a row is 'channel"),
        ("x.arff", f"{ARFF}'1,2\\n3,z',p\n", r"x\.arff, line 7: value 1 is 'z', no number"),
        ("x.arff", ARFF.replace("{p,q}", "string"), r"line 6: .*before @data has no \{classes\}"),
        (
            "x.ts",
            f"{STAMPS}(0,1),(2,3):p\n(1,1),(0,3):p\n",
            r"x\.ts, line 6: time goes back at step 1",
        ),
        ("x.ts", f"{STAMPS}(0,1),2,3:p\n", r"line 5: steps are not \(time,value\)"),
        ("x.ts", f"{STAMPS}(noon,1):p\n", r"line 5: the time 'noon' is no number and no date"),
        ("x.ts", STAMPS + "1 2 3\n", r"line 5: there is no colon between series and class"),
        ("x.ts", "@univariate true\n", r"x\.ts has no line @data"),
    ],
)
def test_a_wrong_line_of_either_format_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said):
        list(text.rows(tmp_path / name))


def test_another_version_of_a_set_is_told(written, tmp_path, monkeypatch):
    size = archive.Size(14, 6, 5, 2, 2)
    monkeypatch.setitem(archive.SIZES, NAME, size)
    assert len(build(tmp_path).source("train")) == 13
    for change in ({"train": 15}, {"steps": 6, "classes": 3}, {"channels": 1}):
        monkeypatch.setitem(archive.SIZES, NAME, size._replace(**change))
        with pytest.raises(ValueError, match=f"another version of {NAME}") as error:
            archive.read.__wrapped__(archive.files_of("uea", NAME, str(tmp_path)), NAME)
        for field, value in change.items():
            own = getattr(size, field)
            assert f"{field} {own} (published: {value})" in str(error.value)


def test_the_published_splits_need_as_many_different_rows(written, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LONG", (NAME,))
    monkeypatch.setitem(archive.SIZES, NAME, archive.Size(14, 6, 5, 2, 2))
    monkeypatch.setitem(archive.DIFFERENT, NAME, 19)
    assert len(build(tmp_path).source("train")) == 13
    monkeypatch.delitem(archive.DIFFERENT, NAME)
    with pytest.raises(ValueError, match=r"19 different rows \(published: 20\)"):
        uea.joint_split.__wrapped__(archive.files_of("uea", NAME, str(tmp_path)), NAME, 3456)


def test_a_known_set_needs_no_files_for_its_sizes():
    spec = tasks.build("uea", dataset="EigenWorms", time="channel").spec
    assert (spec.features, spec.length, spec.outputs) == (7, 17_984, 5)


def test_missing_data_says_what_to_fetch(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        build(tmp_path, dataset="EigenWorms").source("train")
    for word in ("EigenWorms_TRAIN.ts", "252 MB", "timeseriesclassification.com", "--data.data"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"split_seed": 1},
        {"keep": 0.5},
        {"normalise": "channel"},
        {"keep": 0.0},
        {"time": "x"},
        {"dataset": "../x"},
        {"protocol": "own"},
    ],
)
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match="task uea: "):
        tasks.build("uea", **options)


@pytest.mark.parametrize("name", [n for n in archive.SIZES if archive.SIZES[n].train < 51])
def test_sets_of_the_package_are_the_published_ones(name):
    if importlib.util.find_spec("aeon") is None:
        pytest.skip("aeon is not installed")
    task = tasks.build("uea", dataset=name, protocol="archive")
    assert len(task.source("test")) == archive.SIZES[name].test
