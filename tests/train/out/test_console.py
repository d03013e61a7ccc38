"""Without a terminal there is a line now and then, and no rate from the step that compiled."""

import io

from rich.console import Console

from seqzoo.train.out import console


def test_a_line_every_so_often(monkeypatch):
    clock = iter([0.0, 100.0, 101.0, 131.0, 132.0, 162.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    bars = console.ProgressBars(Console(file=file, width=200))
    bars.begin("mqar [lru]", 100)
    for step in range(1, 6):
        bars.step(step, 1 / step, 310)
    bars.end()
    lines = file.getvalue().splitlines()
    assert lines == [
        "mqar [lru]: step 2 of 100  loss 0.5000  310 tokens/s  0:01:38 left",
        "mqar [lru]: step 3 of 100  loss 0.3333  20 tokens/s  0:25:04 left",
        "mqar [lru]: step 5 of 100  loss 0.2000  20 tokens/s  0:24:32 left",
    ]


def test_colours_forced_into_a_file_draw_no_bars(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    bars = console.ProgressBars(Console(file=file))
    bars.begin("mqar lru", 9)
    bars.end()
    assert file.getvalue() == ""
    monkeypatch.setattr(file, "isatty", lambda: True, raising=False)
    bars.begin("mqar lru", 9)
    bars.end()
    assert "mqar lru" in file.getvalue()
