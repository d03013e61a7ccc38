"""Views of rows: what each change does, and what it leaves alone."""

import dataclasses
import pickle

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.pretraining.augment import Augmentation, Row, Strengths
from seqzoo.tasks.task import Picture

IDS = np.array([1] * 12 + [0] * 4, np.int32)
SERIES = np.stack([np.arange(16.0), 3 - np.arange(16.0)], 1).astype(np.float32)
TOKENS = np.arange(100, 116, dtype=np.int32)


def view(row, *, share=1.0, seed=0, vocab=None, picture=None, lead=0, **strengths):
    change = Augmentation(Strengths(**strengths), vocab, picture, lead)
    ids = np.ones(len(row), np.int32) if picture else IDS
    return change(Row(row, ids), share, share, Draws("view", seed))


def test_nothing_is_changed_where_no_strength_asks_for_it():
    picture = Picture(4, 4, np.arange(16))
    for made, row in (
        (view(SERIES), SERIES),
        (view(TOKENS, vocab=200), TOKENS),
        (view(SERIES[:, :1], picture=picture), SERIES[:, :1]),
    ):
        np.testing.assert_array_equal(made.inputs, row)
        assert made.inputs.dtype == row.dtype


def test_a_series_is_cut_stretched_and_never_beyond_its_padding():
    starts = set()
    for seed in range(20):
        made = view(SERIES, share=0.5, seed=seed)
        np.testing.assert_allclose(np.diff(made.inputs[:12, 0]), 0.5, rtol=1e-5)
        np.testing.assert_allclose(made.inputs[:12].sum(1), 3, rtol=1e-5)
        assert made.inputs[0, 0] >= 0
        assert made.inputs[11, 0] <= 11
        np.testing.assert_array_equal(made.inputs[12:], SERIES[12:])
        starts.add(round(float(made.inputs[0, 0]), 3))
    assert len(starts) == 20


def test_a_part_of_the_tokens_moves_to_the_front():
    for seed in range(10):
        made = view(TOKENS, share=0.5, seed=seed, vocab=200, lead=1)
        assert made.ids.tolist() == [1] * 7 + [0] * 9  # the one in front and six of eleven
        assert made.inputs[0] == 100
        assert np.all(np.diff(made.inputs[1:7]) == 1)
        assert 101 <= made.inputs[1] <= 106
        assert not made.inputs[7:12].any()


def test_masks_shifts_channels_and_noise():
    made = view(TOKENS, vocab=200, mask=0.25).inputs
    assert (made[:12] == 200).sum() == 3
    assert set(made[:12]) - {200} < set(range(100, 112))
    turned = [view(TOKENS, vocab=200, shift=0.25, seed=s).inputs[:12] for s in range(30)]
    moved = {(100 - row[0]) % 12 if row[0] != 100 else 0 for row in turned}
    assert moved == {0, 1, 2, 3, 9, 10, 11}
    assert all(sorted(row) == list(range(100, 112)) for row in turned)
    dropped = [view(SERIES, channels=0.3, seed=s).inputs[1, :] == 0 for s in range(200)]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.06)
    noise = np.concatenate([view(SERIES, jitter=0.2, seed=s).inputs - SERIES for s in range(100)])
    at_real = noise.reshape(100, 16, 2)[:, :12]
    assert at_real.std() == pytest.approx(0.2 * SERIES[:12, 0].std(), rel=0.05)
    assert not noise.reshape(100, 16, 2)[:, 12:].any()


def test_pictures_are_mirrored_lit_and_cut_as_pictures():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 17, 64).astype(np.int32)
    picture = Picture(8, 8, np.arange(64), levels=17)
    made = view(pixels, vocab=17, picture=picture, flip=1.0).inputs
    np.testing.assert_array_equal(made.reshape(8, 8), pixels.reshape(8, 8)[:, ::-1])
    lit = np.stack([view(pixels, vocab=17, picture=picture, brightness=0.9, seed=s).inputs
                    for s in range(20)])  # fmt: skip
    assert lit.min() == 0
    assert lit.max() == 16
    assert len({row.sum() for row in lit}) > 15
    slope = (np.arange(64) // 8 + 10.0 * (np.arange(64) % 8)).astype(np.float32)[:, None]
    part = view(slope, share=0.25, picture=picture).inputs.reshape(8, 8)
    down, across = np.diff(part, axis=0), np.diff(part, axis=1)
    assert np.ptp(down) < 1e-4
    assert np.ptp(across) < 1e-4
    assert down.mean() * across.mean() / 10 == pytest.approx(0.25, rel=1e-4)  # of the area
    order = rng.permutation(64)
    turned = view(slope[order], share=0.25, picture=Picture(8, 8, order)).inputs
    np.testing.assert_allclose(turned[:, 0], part.ravel()[order])


def test_a_task_gives_views_that_its_seed_decides():
    task = build("dino:psdigits", draws=3, small=1)
    source = task.source("train")
    assert len(source) == 3 * 1257
    first, again, later = source[0], source[0], source[1257]
    assert first["inputs"].shape == (3, 64, 1)
    np.testing.assert_array_equal(first["inputs"], again["inputs"])
    rows = [*first["inputs"], *later["inputs"], *task.source("train", 1)[0]["inputs"]]
    assert len({row.tobytes() for row in rows}) == 9
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0]["inputs"], rows[:3])
    assert len(task.source("test")) == 360
    assert task.strengths == Strengths(crop=0.4, brightness=0.4)
    assert dataclasses.replace(task, crop=0.7, mask=0.2).strengths.mask == 0.2
    assert build("simclr:pathfinder").strengths.flip == 0.5
    assert task.decode(first).count("\n") == 2


def test_tokens_have_a_mask_and_padding():
    task = build("simclr:mqar", of={"length": 64})
    example = task.source("test")[0]
    assert example["inputs"].shape == example["segment_ids"].shape == (2, 64)
    assert (example["segment_ids"].sum(1) < 64).any()
    assert task.spec.vocab_size == task.of.spec.vocab_size + 1
    assert example["inputs"].max() == task.of.spec.vocab_size  # the mask
