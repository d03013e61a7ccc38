"""PPG-DaLiA from its persons' files and from prepared arrays."""

import pickle

import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.tasks.series import ppg

STEPS, RATE = 1280, 128  # of a window here, ten heart rates


@pytest.fixture
def short(monkeypatch):
    """Windows of ten heart rates, at every one."""
    monkeypatch.setattr(ppg, "STEPS", STEPS)
    monkeypatch.setattr(ppg, "SHIFT", RATE)


def arrays(root, suffix=".npy", counts=(3, 2, 2)):
    rng = np.random.default_rng(0)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for axis, shape in (("X", (STEPS, 6)), ("y", (STEPS // RATE,))):
            array = rng.uniform(-1, 1, (count, *shape))
            path = root / f"{axis}_{split}{suffix}"
            np.save(path, array) if suffix == ".npy" else path.write_bytes(pickle.dumps(array))


def person(seconds, seed):
    """What a person's file holds, as far as it is read: at 32, 64, 4 and 4 a second."""
    rng = np.random.default_rng(seed)
    wrist = {
        "ACC": rng.normal(size=(32 * seconds, 3)),
        "BVP": rng.normal(size=(64 * seconds, 1)),
        "EDA": rng.normal(size=(4 * seconds, 1)),
        "TEMP": rng.normal(size=(4 * seconds, 1)),
    }
    rates = rng.uniform(60, 120, seconds // 2 - 3)
    return {"signal": {"wrist": wrist, "chest": {}}, "label": rates, "subject": f"S{seed}"}


@pytest.mark.parametrize("suffix", [".npy", ".pkl"])
def test_prepared_arrays(short, tmp_path, suffix):
    arrays(tmp_path, suffix)
    task = tasks.build("ppg_dalia", data=str(tmp_path), time="channel")
    source = task.source("validation")
    assert len(source) == 2
    assert task.spec.features == 7
    assert source[1]["inputs"].shape == (STEPS, 7)
    assert source[1]["targets"].shape == (10,)
    assert np.array_equal(source[0]["inputs"][:, 0], np.arange(STEPS, dtype=np.float32) / STEPS)
    assert "the split of the prepared arrays" in task.notes[0]
    targets = np.stack([source[i]["targets"] for i in range(2)])
    outputs = np.full((2, STEPS, 1), 9.0, np.float32)
    outputs[:, RATE - 1 :: RATE, 0] = targets + 0.5
    total, weight = task.measure(outputs, {"targets": targets})["mse"]
    assert float(total / weight) == pytest.approx(0.25, rel=1e-5)
    mean = np.mean([x["targets"].mean() for x in task.source("train")])
    error = np.mean([np.square(x["targets"] - mean).mean() for x in task.source("test")])
    assert task.baselines()["training mean"] == pytest.approx(error, rel=1e-5)
    assert task.decode(source[0]).count("\n") == 7


def test_persons_files_are_cut_scaled_and_aligned(short, tmp_path):
    for i in range(1, ppg.PERSONS + 1):
        (tmp_path / f"S{i}").mkdir()
        (tmp_path / f"S{i}" / f"S{i}.pkl").write_bytes(pickle.dumps(person(160, i), protocol=2))
    task = tasks.build("ppg_dalia", data=str(tmp_path))
    assert "our own" in task.notes[0]
    sizes = {split: len(task.source(split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 15 * 47, "validation": 15 * 3, "test": 15 * 3}
    inputs, rates = ppg.signals(tmp_path / "S3" / "S3.pkl")
    assert inputs.shape == (64 * 160, 6)
    assert rates.shape == (80,)
    assert (rates[:3] == rates[3]).all()
    for own in (inputs[:, :3], inputs[:, 3], inputs[:, 4], inputs[:, 5], rates):
        assert (own.min(), own.max()) == (-1, 1)
    # Of a window and its heart rates the times are the same.
    where = {own.tobytes(): k for k, own in enumerate(np.lib.stride_tricks.sliding_window_view(
        rates[3:], 5))}  # fmt: skip
    found = 0
    for split in ("validation", "test"):
        for window in task.source(split):
            place = where.get(window["targets"][:5].tobytes())
            if place is not None and place > 0:
                begin = (place + 3) * RATE
                found += 1
                assert np.array_equal(window["inputs"], inputs[begin:][:STEPS])
    assert found >= 3


def test_faults_are_named(short, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"several GB.*X_train.*--data\.data"):
        tasks.build("ppg_dalia", data=str(tmp_path)).source("train")
    arrays(tmp_path)
    np.save(tmp_path / "y_test.npy", np.zeros((2, 9)))
    with pytest.raises(ValueError, match=r"X_test.npy and y_test.npy have the shapes"):
        tasks.build("ppg_dalia", data=str(tmp_path)).source("test")
    for value in (np.nan, -np.inf, 1e99):
        np.save(tmp_path / "y_test.npy", np.full((2, 10), value))
        with pytest.raises(ValueError, match=r"y_test.npy has values that are not finite"):
            tasks.build("ppg_dalia", data=str(tmp_path)).source("test")
    wrong = person(160, 0)
    del wrong["signal"]["wrist"]["EDA"]
    (tmp_path / "S1.pkl").write_bytes(pickle.dumps(wrong))
    with pytest.raises(ValueError, match=r"S1.pkl has not what PPG-DaLiA's files have \('EDA'\)"):
        ppg.signals(tmp_path / "S1.pkl")
    wrong = person(160, 0)
    wrong["signal"]["wrist"]["BVP"][7] = np.inf
    (tmp_path / "S1.pkl").write_bytes(pickle.dumps(wrong))
    with pytest.raises(ValueError, match=r"S1.pkl has values that are not finite"):
        ppg.signals(tmp_path / "S1.pkl")
