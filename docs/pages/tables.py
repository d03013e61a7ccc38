"""Tables of the written pages, so that a generated page can show its row of each."""

from __future__ import annotations

import functools
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1]


class Table(NamedTuple):
    """A table and the heading that it stands below."""

    page: str
    heading: str
    anchor: str
    header: list[str]
    rows: list[list[str]]


def cells(line: str) -> list[str]:
    """The cells of a line of a table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]


@functools.cache
def tables(page: str) -> tuple[Table, ...]:
    """All tables of docs/PAGE."""
    found: list[Table] = []
    heading, anchor, open_table = "", "", False
    lines = (DOCS / page).read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#"):
            level, _, heading = line.partition(" ")
            anchor = "" if level == "#" else slug(heading)
        if not line.startswith("|"):
            open_table = False
        elif not open_table:
            open_table = True
            found.append(Table(page, heading, anchor, cells(line), []))
        elif not re.fullmatch(r"[|:\- ]+", line) and number:
            found[-1].rows.append(cells(line))
    return tuple(found)


def slug(heading: str) -> str:
    """The anchor of a heading, as mkdocs makes it."""
    plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


def rows_of(name: str, pages: tuple[str, ...]) -> list[Table]:
    """What the tables of some pages say of `name`: each with the rows whose first cell names it."""
    found = []
    for table in (table for page in pages for table in tables(page)):
        own = [row for row in table.rows if names(row[0], name)]
        if own and len(own[0]) == len(table.header):
            found.append(table._replace(rows=own))
    return found


def names(cell: str, name: str) -> bool:
    """Whether a cell is code that names `name`, or several names, or a pattern, `mad_*`."""
    return any(fnmatchcase(name, pattern) for pattern in re.findall(r"`([\w*]+)`", cell))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table as text."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
