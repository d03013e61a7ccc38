"""What the units of a comparison train: with a model that compiles in a second."""

import jax
import numpy as np
import pytest

from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.compare import comparison as module
from seqzoo.train.compare import results, units, work
from seqzoo.train.compare.comparison import compare
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.folder.lease import LOCK
from seqzoo.train.loop.program import make_program
from tests.helpers import assert_close
from tests.train.loop.test_replicas import Fragile, Selecting, make_model
from tests.train.loop.test_runner import StopAfter, assert_free


@pytest.fixture(autouse=True)
def tiny_programs_here(monkeypatch):
    tiny_programs(monkeypatch)


def tiny_programs(monkeypatch):
    """Programs of the tiny model, whatever the configuration says; each is made once."""
    made = {}

    def program(experiment):
        train = experiment.train
        key = (type(experiment.task), train.replicas)
        if key not in made:
            made[key] = make_program(experiment, make_model=make_model)
        return made[key]._replace(experiment=experiment)

    for user in (module, work):
        monkeypatch.setattr(user, "make_program", program)


def models(task, *labels, **changes):
    fields = {"steps": 8, "batch_size": 8, "eval_every": 2, "threads": 0, "save_every": 3}
    train = TrainConfig(**{**fields, **changes}, seed=3)
    small = BackboneConfig(d_model=8, depth=1)
    return {
        label: Experiment(
            task=task, model="lru", backbone=small, optim=OptimConfig(peak_lr=1e-2), train=train
        )
        for label in labels
    }


def stopping(monkeypatch, steps):
    """A comparison whose process is asked to stop after so many steps."""
    return monkeypatch.setattr(module, "StopRequest", lambda *_: StopAfter(steps))


@pytest.mark.of_the_day(days=4)
@pytest.mark.parametrize("vectorise", ["always", "never"])
def test_a_comparison_stopped_within_a_model_goes_on_to_bitwise_the_same(
    vectorise, tmp_path, monkeypatch
):
    """Also where some seeds' best parameters are those of before the stop."""
    wanted = models(Selecting(), "a", "b")
    options = {"seeds": 3, "vectorise": vectorise}
    whole = compare(wanted, tmp_path / "whole", **options)
    assert whole.missing == ()
    for _ in range(50):
        with monkeypatch.context() as patch:
            stopping(patch, 5)
            parts = compare(wanted, tmp_path / "parts", **options)
        if not parts.missing:
            break
    assert not parts.missing
    files = [(tmp_path / name / results.FILE).read_bytes() for name in ("parts", "whole")]
    assert files[0] == files[1]
    steps = {seed.tested for model in whole.models for seed in model.seeds}
    assert len(steps) > 1
    for lock in tmp_path.rglob(LOCK):
        assert_free(lock.parent)


@pytest.mark.of_the_day("side by side")
def test_seeds_side_by_side_and_one_after_another_find_the_same(tmp_path, monkeypatch):
    wanted = models(Selecting(), "a", profile=True, profile_steps=2)
    made, timed, traced = [], [], []

    def speed(program, state, batch):
        shape = {name: x.shape for name, x in state.params.items()}
        timed.append((program.experiment.train.replicas, shape, batch["inputs"].tobytes()))
        return 2.0, 1.0

    def program(experiment):
        made.append(experiment.train.replicas)
        return tiny(experiment)

    tiny = work.make_program
    for user in (module, work):
        monkeypatch.setattr(user, "make_program", program)
    monkeypatch.setattr(work, "step_speed", speed)
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, **_: traced.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    found = [
        compare(wanted, tmp_path / vectorise, seeds=2, vectorise=vectorise).models[0]
        for vectorise in ("always", "never")
    ]
    assert made == [1, 2, 1]  # what shows that the model can be is what one seed is trained with
    together, alone, _ = timed  # the first seed by itself, on its first batch, in either way
    assert together == alone
    assert together[0] == 1
    runs = {folder.parent.relative_to(tmp_path).as_posix() for folder in traced}
    assert runs == {"always/runs/a", *(f"never/runs/a/seed{seed}" for seed in (3, 4))}
    for one, two in zip(*(model.seeds for model in found), strict=True):
        assert (one.seed, one.tested) == (two.seed, two.tested)
        assert one.curves.keys() == two.curves.keys()
        for split, curve in one.curves.items():
            for name, values in curve.items():
                assert_close(values, two.curves[split][name], what=f"{split} {name}")
        assert_close(one.final["loss"], two.final["loss"])
    assert all((m.step_seconds, m.tokens_per_second) == (2.0, 1.0) for m in found)
    assert found[0].step_flops == found[1].step_flops > 0  # of one seed
    # What is laid out in one way is so for whoever comes next.
    assert units.laid_out_together(tmp_path / "always", "a", (3, 4), wanted=False)
    assert not units.laid_out_together(tmp_path / "never", "a", (3, 4), wanted=True)


@pytest.mark.of_the_day(days=4)
@pytest.mark.parametrize("vectorise", ["always", "never"])
def test_a_seed_that_fails_is_recorded_and_the_others_go_on(vectorise, tmp_path):
    wanted = models(Fragile(), "a", steps=12)
    (model,) = compare(wanted, tmp_path, seeds=3, vectorise=vectorise).models
    assert [seed.failure is None for seed in model.seeds] == [True, False, True]
    failed = model.seeds[1]
    assert (failed.final, failed.tested, failed.skipped) == ({}, None, 1)
    last = max((curve["step"][-1] for curve in failed.curves.values()), default=0)
    assert last < failed.failure["step"] <= 12
    for seed in (model.seeds[0], model.seeds[2]):
        assert np.isfinite(seed.curves["train"]["loss"]).all()
        assert seed.curves["train"]["step"][-1] == 12
        assert np.isfinite(seed.final["loss"])
    # It is through, failed as it is, and nothing is left to train.
    again = compare(wanted, tmp_path, seeds=3, vectorise=vectorise)
    assert again.models == (model,)


def test_it_is_refused_before_training_what_a_folder_cannot_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(work.Work, "_do", lambda *_: pytest.fail("trained"))
    wanted = models(Selecting(), "a")
    with pytest.raises(ValueError, match="gs://BUCKET"):
        compare(wanted, "s3://bucket/c")
    with pytest.raises(ValueError, match="cannot name a model"):
        compare({"../a": wanted["a"]}, tmp_path / "c")
    with pytest.raises(ValueError, match="--no-keep-best"):
        compare(models(Selecting(), "a", keep_best=False), tmp_path / "c")
    assert not (tmp_path / "c").exists()
