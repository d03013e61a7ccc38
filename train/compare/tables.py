"""The tables of a comparison, for the terminal and for the report."""

from __future__ import annotations

from html import escape

from rich import box
from rich.table import Table

from seqzoo.train.compare.formats import (
    Cell,
    Column,
    brief_interval,
    cell_html,
    heading_html,
    show,
    show_compact,
    show_count,
    show_interval,
    show_seconds,
    show_step,
    small_html,
)
from seqzoo.train.compare.results import Comparison, ModelResult
from seqzoo.train.compare.statistics import bounds_of, interval, share_interval
from seqzoo.train.compare.trials import edge_warning, tuning_words
from seqzoo.train.folder.run_folder import Failure
from seqzoo.train.loop.claims import BROKEN

GROWTH = {"constant": "", "undeclared": "not declared"}  # of a state


WIDE = ("steps", "tokens/s")  # columns of the page alone


def final_values(model: ModelResult, metric: str) -> dict[int, float]:
    """seed -> final value, of the seeds that did not fail."""
    finals = {r.seed: r.final.get(metric) for r in model.seeds if r.failure is None}
    return {seed: v for seed, v in finals.items() if v is not None}


def compared(model: ModelResult, metric: str) -> dict[int, float]:
    """`final_values` of a model all of whose seeds finished, else none.

    The seeds that survive are no sample of what the model does: they neither rank it nor enter a
    difference.
    """
    return {} if failed(model) else final_values(model, metric)


def failed(model: ModelResult) -> int:
    """How many seeds failed."""
    return sum(run.failure is not None for run in model.seeds)


def learned_at(comparison: Comparison) -> float | None:
    """The accuracy from which a seed counts: the task's, else half way to a perfect one.

    That is half way from the best trivial baseline. None where the metric is not an accuracy.
    """
    if comparison.main_metric != "accuracy":
        return None
    if comparison.solved_at is not None:
        return comparison.solved_at
    return (1 + max((v for v in comparison.baselines.values() if v is not None), default=0.0)) / 2


def learned(model: ModelResult, comparison: Comparison) -> tuple[int, int] | None:
    """Seeds that reach `learned_at`, and all seeds; those that failed reach nothing.

    A task that is solved or not has two kinds of seeds; a mean hides that.
    """
    bar = learned_at(comparison)
    if bar is None:
        return None
    values = final_values(model, comparison.main_metric).values()
    return sum(v >= bar for v in values), len(model.seeds)


def _learned_column(comparison: Comparison) -> Column:
    bar = learned_at(comparison)
    title = "learned" if comparison.solved_at is None else "solved"
    return Column(title, f"≥ {100 * bar:.3g}%" if bar is not None else "of seeds")


def _learned_cell(model: ModelResult, comparison: Comparison) -> Cell:
    found = learned(model, comparison)
    if found is None or not found[1]:
        return Cell("–")
    low, high = share_interval(*found)
    ends = f"{100 * low:.0f} to {100 * high:.0f}%"
    return Cell(f"{found[0]}/{found[1]}", found[0] / found[1], ends)


def failures(comparison: Comparison) -> list[str]:
    """One line a failed run."""
    lines = []
    for model in comparison.models:
        for run in model.seeds:
            if run.failure is not None:
                lines.append(f"{model.name}, seed {run.seed}: {_reason(run.failure)}")
    return lines


def _reason(failure: Failure) -> str:
    if failure.get("reason"):
        return failure["reason"]
    groups = ", ".join(failure.get("groups", ())) or "the loss"
    after = _after(failure.get("skipped", 1))
    return f"not finite at step {failure.get('step')} ({groups}){after}"


def broken_claims(comparison: Comparison) -> list[str]:
    """One line for each law that a mixer from outside breaks."""
    return [
        f"{model.name}: {law} is {seen}"
        for model in comparison.models
        for law, seen in model.claims.items()
        if seen.startswith(BROKEN)
    ]


def _claims(model: ModelResult) -> str:
    """What stands beside the name of a model with a mixer from outside."""
    broken = [law for law, seen in model.claims.items() if seen.startswith(BROKEN)]
    if broken:
        return f"{BROKEN}: {', '.join(broken)}"
    return f"keeps {', '.join(model.claims)}" if model.claims else ""


def _after(skipped: int) -> str:
    return f", after {skipped - 1} skipped" if skipped > 1 else ""


def caption(comparison: Comparison) -> str:
    """What the columns mean."""
    text = (
        "Mean ± half width of the 95% interval (Student's t over seeds, in the log odds of "
        "accuracies, in the logarithm of errors, so that it ends inside the range; both ends where "
        "one is further), each seed below; "
        f"{selected(comparison)} and over the whole {comparison.final_split} split. "
        "FLOPs: operations of a training step with backward pass and update. State: bytes carried "
        "from token to token, of one sequence of the task's length. Step and tokens per second: of "
        "one seed in training, the same batch for all; real tokens, without padding."
    )
    if any(map(failed, comparison.models)):
        text += (
            " A model with a failed seed is ranked by none of its values; those of the seeds that "
            "finished stand below."
        )
    return " ".join(filter(None, [text + _about_learned(comparison), edge_warning(comparison)]))


def _about_learned(comparison: Comparison) -> str:
    bar = learned_at(comparison)
    if bar is None:
        return ""
    exact = "with the exact interval of that share (Clopper and Pearson)."
    if comparison.solved_at is not None:
        return (
            f" Solved: seeds of at least {100 * bar:.3g}%, the task's threshold, {exact} Where "
            "only some do, that share says more than the mean of a few seeds."
        )
    return (
        f" Learned: seeds of at least {100 * bar:.3g}%, half way from the best trivial baseline to "
        f"a perfect accuracy, {exact}"
    )


def recipes(comparison: Comparison) -> list[str]:
    """One line for each option of optimiser and blocks in which the models differ."""
    lines = []
    for part in ("optim", "backbone"):
        own = {m.name: m.config.get(part, {}) for m in comparison.models if m.config}
        for field in dict.fromkeys(name for options in own.values() for name in options):
            values = {name: options.get(field) for name, options in own.items()}
            if len({repr(value) for value in values.values()}) > 1:
                said = ", ".join(f"{name} {value}" for name, value in values.items())
                lines.append(f"{part}.{field}: {said}")
    return lines


def selected(comparison: Comparison) -> str:
    """At which step each seed was tested."""
    if comparison.selection == "last":
        return "at the last training step"
    return f"each seed at the step of its best validation {comparison.main_metric}"


def rows(comparison: Comparison) -> tuple[list[Column], list[list[Cell]]]:
    """The results table: best model first, those with failed seeds, the trivial baselines."""
    metric = comparison.main_metric
    columns = [
        Column("model"),
        Column(metric, "mean ± 95%"),
        _learned_column(comparison),
        Column("params"),
        Column("FLOPs", "a step"),
        Column("state", "bytes"),
        Column("step", "ms"),
        Column("tokens/s", "one seed"),
        Column("steps"),
        Column("time", "training"),
    ]
    table = [_model_row(m, comparison) for m in ranked(comparison)]
    for name, value in comparison.baselines.items():
        blank = [Cell("–")] * (len(columns) - 2)
        table.append([Cell(name, name), Cell(show(value, metric), value), *blank])
    if metric != "accuracy":
        columns.pop(2)
        table = [row[:2] + row[3:] for row in table]
    return columns, table


def ranked(comparison: Comparison) -> list[ModelResult]:
    """Best mean first, then by their names the models with a failed seed or without a value."""

    def key(model: ModelResult) -> tuple[bool, float, str]:
        spread = interval(list(compared(model, comparison.main_metric).values()))
        sign = -1 if comparison.higher_is_better else 1
        return spread.count == 0, 0.0 if spread.count == 0 else sign * spread.mean, model.name

    return sorted(comparison.models, key=key)


def _count(value: float | None, small: str = "") -> Cell:
    return Cell(show_count(value), value, small, show_compact(value))


def _model_row(model: ModelResult, comparison: Comparison) -> list[Cell]:
    metric = comparison.main_metric
    finals = final_values(model, metric)
    values = list(compared(model, metric).values())
    spread, lost = interval(values, bounds=bounds_of(metric)), failed(model)
    claims = _claims(model)
    brief = f"{model.name} ({claims})" if claims.startswith(BROKEN) else ""
    small = "; ".join(filter(None, [claims, model.matched, tuning_words(model)]))
    return [
        Cell(model.name, model.name, small, brief),
        Cell(
            f"{lost} of {len(model.seeds)} failed" if lost else show_interval(spread, metric),
            spread.mean if spread.count else None,
            "  ".join(show(v, metric).rstrip("%") for v in finals.values()),
            brief_interval(spread, metric),
        ),
        _learned_cell(model, comparison),
        _count(model.parameters),
        Cell(show_compact(model.step_flops), model.step_flops),
        _state(model),
        Cell(show_step(model.step_seconds), model.step_seconds),
        _count(model.tokens_per_second),
        _count(model.steps, _tested(model)),
        Cell(show_seconds(model.train_seconds), model.train_seconds),
    ]


def _state(model: ModelResult) -> Cell:
    """Bytes of state; of a folder of before its elements, which is said."""
    grows = GROWTH.get(model.state_growth, "grows with length")
    if model.state_bytes is None and model.state_size is not None:
        count = show_compact(model.state_size)
        return Cell(f"{count} elements", None, grows, f"{count} el.")
    return _count(model.state_bytes, grows)


def _tested(model: ModelResult) -> str:
    steps = [str(run.tested) for run in model.seeds if run.tested is not None]
    skipped = sum(run.skipped for run in model.seeds)
    parts = [f"tested at {'  '.join(steps)}"] if steps else []
    return "; ".join([*parts, *([f"{skipped} not finite, skipped"] if skipped else [])])


def results_table(comparison: Comparison) -> Table:
    """The results for the terminal, narrow enough for 80 columns."""
    columns, table = rows(comparison)
    kept = [i for i, column in enumerate(columns) if column.title not in WIDE]
    out = Table(title=_title(comparison), title_justify="left", **_LOOK)
    for i in kept:
        unit = f"\n[dim]{columns[i].unit}[/dim]" if columns[i].unit else ""
        layout = {"justify": "right", "no_wrap": True} if i else {"min_width": 16}
        out.add_column(columns[i].title + unit, overflow="fold", **layout)
    models = len(comparison.models)
    for number, row in enumerate(table):
        cells = [escape_markup(row[i].brief or row[i].text) for i in kept]
        out.add_row(*cells, style="dim italic" if number >= models else None)
        if number == models - 1:
            out.add_section()
    return out


_LOOK = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}


def _title(comparison: Comparison) -> str:
    steps = {m.steps for m in comparison.models}
    text = f"{comparison.title}, {'/'.join(map(str, sorted(steps)))} steps, {selected(comparison)}"
    return escape_markup(text)


def escape_markup(text: str) -> str:
    """`text` with no meaning to rich, so that a name in brackets is printed as it is."""
    return text.replace("\\", "\\\\").replace("[", "\\[")


def results_html(comparison: Comparison) -> str:
    """The results as a table that the report's script can sort."""
    columns, table = rows(comparison)
    index = {m.name: i for i, m in enumerate(comparison.models)}
    head = "".join(heading_html(c, "text" if i == 0 else "number") for i, c in enumerate(columns))
    body = []
    for i, row in enumerate(table):
        name = escape(row[0].text)
        if i < len(comparison.models):
            opening = f'<tr data-row="{name}">'
            first = f'<span data-swatch="{index[row[0].text]}"></span>{name}{small_html(row[0])}'
        else:
            opening, first = '<tr class="baseline">', name
        cells = "".join(cell_html(cell) for cell in row[1:])
        body.append(f'{opening}<th scope="row" data-value="{name}">{first}</th>{cells}</tr>')
    return (
        f'<table class="sortable results"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )
