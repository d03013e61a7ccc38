import dataclasses
import json
import math
import re

import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.train.compare import pairs, results, tables
from seqzoo.train.compare.charts import DARK, LIGHT, POINTS, chart_data
from seqzoo.train.compare.page import comparisons_in, render, write_report
from seqzoo.train.compare.results import Comparison, ModelResult, SeedResult
from seqzoo.train.compare.statistics import Difference, Interval
from tests.train.compare import browser

SCRIPT_NAME = '<script>document.title="owned"</script>'
STEPS = list(range(50, 401, 50))


def model(name, top, *, state=64, failed=None):
    runs = []
    for seed in range(3):
        values = [(top + 0.01 * seed) * step / STEPS[-1] for step in STEPS]
        curve = {"step": STEPS, "accuracy": values, "loss": [2 - 2 * v for v in values]}
        failure = {"step": 7, "groups": ["dynamics"], "loss": None} if seed == failed else None
        final = {"accuracy": values[-1], "loss": 2 - 2 * values[-1]}
        curves = {"train": curve, "validation": curve}
        runs.append(SeedResult(seed=seed, final=final, curves=curves, failure=failure))
    counts = {"parameters": round(1e5 * top), "state_size": state, "state_bytes": 4 * state}
    counts |= {"tokens_per_second": 9e4 * top, "step_flops": 1.1194e12, "step_seconds": 0.1234}
    return ModelResult(name=name, seeds=tuple(runs), steps=STEPS[-1], **counts)


def comparison(**changes):
    fields = {
        "title": "mqar",
        "main_metric": "accuracy",
        "models": (
            model("lru", 0.2),
            model("attention", 0.97, state=2048),
            model(SCRIPT_NAME, 0.5, failed=1),
        ),
        "baselines": {"chance": 0.03, "most frequent": 0.1},
        "command": "seqzoo compare --task mqar --models 'a<b>'",
        "data": {"train": 1000, "test": 100, "train digest": "ab" * 32},
        "versions": {"jax": "0.10.2"},
        "config": {"task": {"name": "mqar", "pairs": 8}},
    }
    return Comparison(**{**fields, **changes})


def test_results_survive_the_file(tmp_path):
    want = comparison(notes=("a", "b"))
    path = results.save(want, tmp_path)
    assert results.plain(results.load(path)) == results.plain(want)


def test_a_number_that_is_not_finite_is_null_in_strict_json(tmp_path):
    path = results.save(comparison(baselines={"chance": math.nan}), tmp_path)
    constants = []
    content = json.loads(path.read_text(), parse_constant=constants.append)
    assert content["baselines"] == {"chance": None}
    assert constants == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ("[]", "version 1"),
        ('{"seqzoo_results": 1, "models": [], "oops": 1}', "oops"),
        ('{"seqzoo_results": 1, "title": "x", "main_metric": "accuracy"}', "models"),
    ],
)
def test_a_damaged_results_file_is_named(tmp_path, text, says):
    (tmp_path / results.FILE).write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        comparisons_in(tmp_path)
    assert results.FILE in str(caught.value)


def test_a_folder_without_results_says_what_makes_them(tmp_path):
    with pytest.raises(ValueError, match="seqzoo compare --out"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        write_report(tmp_path / "absent")


def test_one_section_a_subfolder(tmp_path):
    results.save(comparison(), tmp_path / "b")
    results.save(comparison(title="listops_short"), tmp_path / "a")
    page = write_report(tmp_path).read_text()
    assert [c.title for c in comparisons_in(tmp_path)] == ["listops_short", "mqar"]
    assert page.count("<section") == 2


def test_a_training_run_is_reported(tmp_path):
    lines = [
        {"step": 10, "loss": 2.0, "accuracy": 0.25, "lr": 0.1},
        {"step": 20, "loss": 1.0, "accuracy": 0.5, "validation/accuracy": 0.4},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    config = {"model": "lru", "task": {"name": "mqar"}, "train": {"seed": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (got,) = comparisons_in(tmp_path)
    assert got.models[0].seeds[0].seed == 4
    assert got.models[0].seeds[0].curves == {
        "train": {"step": [10, 20], "loss": [2.0, 1.0], "accuracy": [0.25, 0.5]},
        "validation": {"step": [20], "accuracy": [0.4]},
    }
    assert got.models[0].seeds[0].final == {"accuracy": 0.4}
    page = write_report(tmp_path).read_text()
    assert "over the whole validation split" in page
    for fact in ("validation length", "value of the context", "validation examples"):
        assert fact in page
    assert got.baselines == tasks.build("mqar").baselines("validation")


@pytest.mark.parametrize("task", [{"name": "image", "data": "/absent"}, {"name": "my_own"}])
def test_a_run_is_reported_without_its_data(tmp_path, task):
    line = {"step": 10, "loss": 2.0, "validation/accuracy": 0.25}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"model": "lru", "task": task}))
    (got,) = comparisons_in(tmp_path)
    assert got.baselines == {}
    assert ("not on this machine" in " ".join(got.notes)) == (task["name"] == "image")


def test_curves_of_any_length_have_so_many_points():
    steps = list(range(1, 20_001))
    seeds = []
    for seed in range(2):
        curve = {"step": steps[seed:], "loss": [float(s) for s in steps[seed:]]}
        curve["lr"] = [None, 1.0] * 9_999 + [None] * (2 - seed)
        empty = {"step": [], "loss": []}
        seeds.append(SeedResult(seed=seed, curves={"train": curve, "validation": empty}))
    long = ModelResult(name="long", seeds=tuple(seeds), steps=20_000)
    c = comparison(models=(long, model("short", 0.5)))
    drawn, short = chart_data(c, "s0")["models"]
    assert short["curves"]["validation"]["accuracy"]["x"] == STEPS  # as they are
    assert drawn["curves"].keys() == {"train"}
    loss = drawn["curves"]["train"]["loss"]
    x, mean = (np.array(loss[key]) for key in ("x", "mean"))
    assert len(x) == POINTS
    assert x[-1] == 20_000
    assert np.allclose(mean[1:], (x[1:] + x[:-1] + 1) / 2)  # of the steps of a window
    assert set(drawn["curves"]["train"]["lr"]["mean"]) == {1.0}  # of those that have a value
    assert len(render([c])) < 80_000


def test_the_page_loads_nothing_and_names_are_inert():
    page = render([comparison()])
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert not re.search(r"@import|url\(|\bfetch\b|XMLHttpRequest|import\(", page)
    assert SCRIPT_NAME not in page
    assert page.count("<script") == page.count("</script") == 2
    assert "a&lt;b&gt;" in page


def test_a_name_that_looks_like_a_placeholder_stays():
    assert "{{data}}" in render([comparison(title="{{data}}")])


def test_the_best_model_comes_first_and_baselines_last():
    _, table = tables.rows(comparison())
    names = [row[0].text for row in table]
    assert names == ["attention", "lru", SCRIPT_NAME, "chance", "most frequent"]
    # 0.97, 0.98, 0.99: t = 4.303, s = 0.01, half a width of 2.5, of the log odds 1.27.
    assert [row[1].text for row in table[:2]] == ["98.0 (93.2 to 99.4)%", "21.0 ± 2.5%"]
    assert [row[1].small for row in table[:2]] == ["97.0  98.0  99.0", "20.0  21.0  22.0"]
    assert [row[2][:3] for row in table[:2]] == [
        ("3/3", 1.0, "29 to 100%"),
        ("0/3", 0.0, "0 to 71%"),
    ]


def test_seeds_are_counted_from_the_tasks_threshold():
    c = comparison(models=(model("lru", 0.2), model("gru", 0.985)))
    assert tables.rows(c)[0][2] == ("learned", "≥ 55%")
    assert "half way from the best trivial baseline" in tables.caption(c)
    c = dataclasses.replace(c, solved_at=0.99)
    columns, table = tables.rows(c)
    assert columns[2] == ("solved", "≥ 99%")
    assert [row[2].text for row in table[:2]] == ["2/3", "0/3"]
    assert "Solved: seeds of at least 99%, the task's threshold" in tables.caption(c)
    failed = dataclasses.replace(c, models=(model("lru", 0.995, failed=1),))
    assert tables.rows(failed)[1][0][2].text == "2/3"


def test_a_model_with_a_failed_seed_is_a_row_of_its_own_kind():
    # Its survivors would be the best of all.
    c = comparison(
        models=(model("lru", 0.2), model("b", 0.99, failed=0), model("a", 0.9, failed=2))
    )
    _, table = tables.rows(c)
    assert [row[0].text for row in table[:3]] == ["lru", "a", "b"]
    assert [row[1].text for row in table[1:3]] == ["1 of 3 failed"] * 2
    assert [row[1].key for row in table[1:3]] == [None, None]
    assert table[2][1].small == "100.0  101.0"
    assert pairs.differences(c) == {}
    assert "is ranked by none of its values" in tables.caption(c)
    assert "is ranked by none" not in tables.caption(comparison(models=(model("lru", 0.2),)))


def test_skipped_steps_are_told():
    one = model("lru", 0.2, failed=1)
    runs = [dataclasses.replace(run, skipped=2 * run.seed) for run in one.seeds]
    runs[1] = dataclasses.replace(runs[1], failure={**runs[1].failure, "skipped": 2})
    c = comparison(models=(dataclasses.replace(one, seeds=tuple(runs)),))
    _, table = tables.rows(c)
    assert table[0][8].small == "6 not finite, skipped"
    assert tables.failures(c) == ["lru, seed 1: not finite at step 7 (dynamics), after 1 skipped"]


def test_a_failed_seed_is_shown_and_not_averaged():
    c = comparison()
    assert tables.failures(c) == [f"{SCRIPT_NAME}, seed 1: not finite at step 7 (dynamics)"]
    assert tables.final_values(c.models[2], "accuracy") == {0: 0.5, 2: 0.52}
    assert "Failed runs" in render([c])


def test_differences_put_the_better_model_first():
    c = comparison(models=(model("lru", 0.2), model("gru", 0.3), model("attention", 0.97)))
    table = pairs.differences(c)
    assert list(table)[:2] == ["attention − gru", "attention − lru"]
    cells = table["attention − lru"]
    assert cells[0].text.startswith("+77 ± ")
    # Every seed adds 0.01 to every model.
    assert [cell.text for cell in cells[1:]] == ["3", "–", "–", "–", "no spread to test"]
    # A difference of two shares is no larger than one.
    drawn = [
        dataclasses.replace(
            m,
            seeds=tuple(
                dataclasses.replace(run, final={"accuracy": v})
                for run, v in zip(m.seeds, values, strict=True)
            ),
        )
        for m, values in ((model("a", 0.9), (1.0, 0.9, 0.1)), (model("b", 0.1), (0.1, 0.2, 0.1)))
    ]
    (cells,) = pairs.differences(comparison(models=tuple(drawn))).values()
    assert cells[0].text == "+53.3 (-64.1 to +100) points"


def test_one_sentence_says_who_is_told_apart():
    spread = {"a": (0.9, 0.91, 0.93), "b": (0.2, 0.22, 0.21), "c": (0.2, 0.21, 0.22)}
    models = []
    for name, values in spread.items():
        seeds = tuple(SeedResult(seed=i, final={"accuracy": v}) for i, v in enumerate(values))
        models.append(ModelResult(name=name, seeds=seeds, steps=1))
    found = comparison(models=tuple(models))
    assert pairs.told_apart(found) == "told apart: a from b, c (2 of 3 pairs)"
    assert "told apart: a from b, c (2 of 3 pairs)</summary>" in render([found])
    alike = dataclasses.replace(found, models=tuple(models[1:]))
    assert pairs.told_apart(alike) == "told apart: none of 1 pair"
    assert pairs.told_apart(comparison(models=(model("lru", 0.2),))) == ""


def test_the_reading_of_a_difference_is_that_of_all_pairs(monkeypatch):
    found = [Difference("a", "b", Interval(0.1, 0.05, 3), 0.01, q) for q in (0.04, 0.06)]
    for difference, verdict in zip(found, ("different", "not told apart"), strict=True):
        monkeypatch.setattr(pairs, "pairwise", lambda _, d=difference: [d])
        (cells,) = pairs.differences(comparison()).values()
        assert cells[-1].text == verdict


def test_the_terminal_table_fits_eighty_columns_and_prints_brackets():
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    models = (model("a[b]", 0.5), model("attention_long", 0.97))
    timed = tuple(dataclasses.replace(m, train_seconds=600.0) for m in models)
    console.print(tables.results_table(comparison(models=timed)))
    text = console.export_text()
    for shown in (
        "a[b]",
        "51.0 ± 2.5%",
        "98.0(93–99)%",
        "10.0 min",
        "training",
        "1.12T",
        "256",
        "123 ",
    ):
        assert shown in text
    assert "…" not in text


@pytest.mark.parametrize(("colours", "card"), [(LIGHT, "#ffffff"), (DARK, "#1d2126")])
def test_curves_stand_out_from_the_card(colours, card):
    # WCAG 2.2, 1.4.11: graphical objects have a contrast of at least 3.
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in colours:
        a, b = sorted((luminance(colour), luminance(card)))
        assert (b + 0.05) / (a + 0.05) >= 3, colour


@pytest.fixture(scope="module")
def chromium():
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip(browser.MISSING)


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results.save(comparison(), folder / "a")
    results.save(comparison(title="listops_short"), folder / "b")
    with browser.Browser() as window:
        window.open(write_report(folder).as_uri())
        yield window


def curves(page):
    return page.run(
        "return [...document.querySelectorAll('#s0 [data-curve]')].map(c => c.dataset.curve)"
    )


def order(page):
    script = "return [...document.querySelectorAll('#s0 .results tbody th')].map(c => c.innerText)"
    return [name.strip() for name in page.run(script)]


def test_browser_draws_every_model_and_complains_of_nothing(page):
    assert sorted(curves(page)) == sorted(["lru", "attention", SCRIPT_NAME])
    plots = page.run("return [...document.querySelectorAll('.plot')].map(p => p.children.length)")
    assert len(plots) == 6
    assert min(plots) >= 1
    assert page.run("return document.title").startswith("Sequence models on")
    assert page.log("browser") == []


def test_curves_are_there_when_the_page_has_loaded(chromium, tmp_path):
    results.save(comparison(), tmp_path / "a")
    report = write_report(tmp_path)
    no_frames = "<head><script>window.ResizeObserver = class { observe() {} }</script>"
    report.write_text(report.read_text().replace("<head>", no_frames, 1))
    with browser.Browser() as window:
        window.open(report.as_uri())
        assert "attention" in curves(window)


def test_browser_asks_the_network_for_nothing(page):
    page.run("return 0")
    events = [json.loads(entry["message"])["message"] for entry in page.log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if url.startswith("file:")] == asked[:1]
    assert all(url.startswith("data:") for url in asked[1:])


def test_browser_legend_hides_and_shows(page):
    page.click("#s0 .legend button", 1)
    assert "attention" not in curves(page)
    assert not page.run("return document.querySelector('#s0 [data-final=attention]')")
    assert page.run("return document.querySelectorAll('#s1 [data-curve]').length") == 3, (
        "the other section keeps its curves"
    )
    page.click("#s0 .legend button", 1)
    assert "attention" in curves(page)


def test_browser_sorts_numbers_as_numbers(page):
    page.click("#s0 .results thead button", 5)  # state: 2048 after 64, though "2" < "6"
    assert order(page)[0] == "attention"
    page.click("#s0 .results thead button", 1)
    assert order(page) == ["attention", "lru", "most frequent", "chance", SCRIPT_NAME]
    page.click("#s0 .results thead button", 1)
    assert order(page) == ["chance", "most frequent", "lru", "attention", SCRIPT_NAME]
    page.click("#s0 .results thead button", 4)
    page.click("#s0 .results thead button", 4)
    assert order(page)[-2:] == ["chance", "most frequent"], "missing values come last"


def test_browser_switches_metric_and_axis(page):
    points = "return document.querySelector('#s0 [data-curve=lru]').getAttribute('points')"
    accuracy = page.run(points)
    page.click("#s0 [data-choice=loss]")
    loss = page.run(points)
    page.click("#s0 [data-choice=log]")
    assert len({accuracy, loss, page.run(points)}) == 3
    page.click("#s0 [data-choice=accuracy]")
    page.click("#s0 [data-choice=linear]")
    assert page.run(points) == accuracy


@pytest.mark.of_the_day("browser reads", 2)
def test_browser_reads_values_under_the_mouse(page):
    page.hover("#s0 [data-plot=curves] svg")
    text = page.run("return document.querySelector('#s0 .tip').innerText")
    step = int(re.search(r"step (\d+)", text)[1])
    assert step in STEPS
    mean, half = (100 * x * step / STEPS[-1] for x in (0.98, 0.0248414))
    ends = f"({mean - half:.1f} to 100.0)" if mean + half > 100 else f"± {half:.1f}"
    assert f"{mean:.1f} {ends}" in text
    assert page.log("browser") == []
