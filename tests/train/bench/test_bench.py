import json
import sys
import time

import pytest

from seqzoo.train.bench import mixers as module
from seqzoo.train.bench.data import examples_per_second
from seqzoo.train.bench.mixers import interleaved, latency, scaling, speed
from seqzoo.train.bench.options import Bench
from seqzoo.train.cli.command import dispatch
from tests.scripts import script

MINE = """
from flax import nnx


class Scaled(nnx.Module):
    def __init__(self, d_model: int, *, by: int = 2, rngs: nnx.Rngs):
        self.by = by

    def __call__(self, x):
        return self.by * x
"""


def test_calls_take_turns_and_the_first_round_does_not_count():
    order = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert order == ["a", "b"] * 4
    assert {name: len(t) for name, t in times.items()} == {"a": 3, "b": 3}


def test_speed_measures_the_baseline_beside(monkeypatch):
    seconds = {"lru": [0.2, 0.4, 0.4], "gru": [0.1, 0.1, 0.4]}
    monkeypatch.setattr(module, "_compiled", lambda *_: (None, {"compile_seconds": 1.0}))
    monkeypatch.setattr(module, "interleaved", lambda calls, rounds: seconds)
    base, gru = speed(Bench(models="gru", lengths=(50,), batch_size=2))
    assert (base["model"], base["times_lru"]) == ("lru", 1.0)
    assert gru["tokens_per_second"] == 1000.0
    assert gru["times_lru"] == 2.0  # the median of 2, 4 and 1, not the ratio of medians


def test_a_measurement_is_a_line_of_json(tmp_path, capsys):
    out = tmp_path / "speed.jsonl"
    sizes = ["--lengths", "8", "--d-model", "4", "--batch-size", "1", "--rounds", "1"]
    assert (
        dispatch(["bench", "--models", "gru", "--baseline", "gru", "--out", str(out), *sizes]) == 0
    )
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (row["model"], row["length"], row["times_gru"]) == ("gru", 8, 1.0)
    assert min(row["tokens_per_second"], row["compile_seconds"], row["temp_mib"]) > 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == row
    out.write_text("my notes\n")
    for place, says in ((out, "'my notes'); name another"), (tmp_path, "is a folder")):
        assert dispatch(["bench", "--models", "gru", "--out", str(place)]) == 2
        assert says in capsys.readouterr().err
    assert out.read_text() == "my notes\n"


def test_a_mixer_by_address_is_measured(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    name = f"{file}:Scaled"
    sizes = ["--lengths", "8", "--d-model", "4", "--batch-size", "1", "--rounds", "1"]
    beside = ["bench", "--models", name, "--baseline", name, *sizes, "--options"]
    assert dispatch([*beside, '{"Scaled": {"by": 3}}']) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (row["model"], row["length"]) == (name, 8)
    assert row["tokens_per_second"] > 0
    for command, words in (
        ([*beside, '{"Scaled": {"bye": 3}}'], "did you mean by?"),
        ([*beside, '{"Scale": {}}'], "did you mean Scaled?"),
        (["bench", "--what", "latency", *beside[1:-1]], "cannot stream"),
        (["bench", "--models", f"{file}:Scale"], "Scale"),
    ):
        assert dispatch(command) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_a_mixer_is_measured_beside_itself_with_other_options(capsys):
    sizes = ["--lengths", "8", "--d-model", "4", "--batch-size", "1", "--rounds", "1"]
    models = ["bench", "--models", "wide=gru,gru", "--baseline", "gru", *sizes, "--options"]
    assert dispatch([*models, '{"wide": {"expand": 8}}']) == 2  # no option of gru
    assert "gru" in capsys.readouterr().err
    models = ["bench", "--models", "wide=lru,lru", "--baseline", "lru", *sizes, "--options"]
    assert dispatch([*models, '{"wide": {"d_state": 512}}']) == 0
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines() if x.startswith("{")]
    rows = {line["model"]: line for line in lines}
    assert list(rows) == ["lru", "wide"]
    assert rows["wide"]["temp_mib"] > rows["lru"]["temp_mib"]
    sizes_of = [Bench(models=f"a={name}").sizes for name in ("gru", "lru")]
    assert sizes_of[0] != sizes_of[1]  # rows of a label do not go on with another mixer's
    for given, words in (("lru,lru", "'lru' twice"), ("wide=", "'wide=' is no mixer")):
        assert dispatch(["bench", "--models", given, *sizes]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.of_the_day("generation measured")
def test_generation_is_measured_beside_a_step(capsys):
    sizes = ["--models", "gru", "--d-model", "4", "--batch-size", "1", "--rounds", "1"]
    assert dispatch(["bench", "--what", "data", "--tasks", "group_words", *sizes]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (row["task"], row["length"]) == ("group_words", 21)
    assert row["made_per_second"] * row["microseconds"] == pytest.approx(1e6)
    assert row["ratio"] == pytest.approx(row["made_per_second"] / row["gru_per_second"])


def test_a_save_is_timed_beside_steps(capsys):
    assert dispatch(["bench", "--what", "checkpoint", "--mib", "1", "--rounds", "1"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["save_share"] == pytest.approx(row["save_seconds"] / row["written_seconds"])
    assert 0 < row["save_seconds"] < row["written_seconds"]


def test_a_rate_counts_examples():
    class Slow:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            assert 0 <= index < 3
            busy = time.thread_time()
            while time.thread_time() - busy < 0.01:
                pass

    assert 0 < examples_per_second(Slow(), 1, 0.0) <= 100


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--tasks", "mqarr"], "did you mean mqar"),
        (["--models", "lru,grru"], "did you mean gru"),
        (["--options", "{"], "no JSON"),
        (["--options", '{"lru": 3}'], "the form"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--lengths", "2", "-1"], "lengths are tokens, at least 1"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(capsys, more, says):
    assert dispatch(["bench", *more]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_scaling_fits_the_exponent(monkeypatch):
    """Rows twice as long, as many tokens: twice the time per token, and the same memory."""
    monkeypatch.setattr(module, "_compiled", lambda *_: (None, {"temp_mib": 3.0}))
    seconds = {"10": [1.0], "20": [2.0], "40": [4.0]}
    monkeypatch.setattr(module, "interleaved", lambda calls, rounds: seconds)
    (row,) = scaling(Bench(models="gru", lengths=(10, 20, 40), batch_size=2))
    assert row["time_exponent"] == pytest.approx(1)
    assert row["memory_exponent"] == pytest.approx(0)
    assert row["ns_per_token_40"] == pytest.approx(4e9 / 80)
    assert row["bytes_per_token_10"] == pytest.approx(3 * 2**20 / 80)


def test_latency_is_that_of_a_step_behind_so_many_tokens():
    (row,) = latency(Bench(models="linear_attention", d_model=4, positions=(2, 5), rounds=1))
    assert min(row["us_at_2"], row["us_at_5"], row["ratio"]) > 0


@pytest.mark.of_the_day("two sides")
def test_two_sides_take_turns_in_processes_of_their_own():
    found = script("beside")["beside"]("gru", "nnx_gru", 8, 1, sys.executable)
    # Of one round the ratio of the rates is that of the times.
    assert found["ratio"] == pytest.approx(found["ours"] / found["theirs"])
    assert min(found.values()) > 0
