"""A mixer's flow as an SVG, from x above to y below.

Grey boxes are primitives: the names above their line are arguments, what stands below an argument
are parameters that go into it without a box between. Lines are what reaches what.
"""

from __future__ import annotations

import dataclasses
from html import escape
from typing import Any
from xml.sax.saxutils import quoteattr

from pages.flow import INPUT, OUTPUT, Box, Flow

LETTER, SMALL = 7.0, 5.9  # widths of a letter of either size
LINE, MARGIN, GAP, DROP = 15, 9, 16, 36  # heights and distances, in units of the picture
BACKGROUND = "var(--md-default-bg-color, #fff)"


@dataclasses.dataclass
class Node:
    """A box with its place; x and y are those of its middle and of its top."""

    box: Box
    rank: int
    width: float
    height: float
    ports: list[tuple[str, list[str], float]]  # argument, parameters, offset from the middle
    x: float = 0.0
    y: float = 0.0


def picture(name: str, flow: Flow) -> str:
    """The SVG of a mixer."""
    if not flow.boxes:
        flow = Flow([Box(name, primitive=True, ports={"": flow.output})], {0})
    nodes = _nodes(flow)
    width, height = _place(nodes)
    lines = [line for node in nodes.values() for line in _lines(node, nodes)]
    boxes = [_drawn(node) for node in nodes.values() if node.box.name]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img" aria-label={quoteattr(f"data flow of {name}")} '
        f'style="max-width:100%;height:auto" font-family="inherit" font-size="12" '
        f'fill="currentColor" stroke="none">' + "".join([*lines, *boxes]) + "</svg>"
    )


def _nodes(flow: Flow) -> dict[Any, Node]:
    """x, the boxes that anything reaches, y, and a place in each row that a line only crosses."""
    nodes: dict[Any, Node] = {INPUT: _node(Box(INPUT, "[B, L, D]"), 0)}
    for number, box in enumerate(flow.boxes):
        reached = {s for own in box.ports.values() for s in own}
        if any(isinstance(source, str) or source in nodes for source in reached):
            nodes[number] = _node(box, 1 + max(_ranks(box, nodes), default=0))
    last = Box(OUTPUT, "[B, L, D]", ports={"": flow.output})
    nodes[OUTPUT] = _node(last, 1 + max(_ranks(last, nodes), default=0))
    for node in list(nodes.values()):
        for source in {s for own in node.box.ports.values() for s in own if s in nodes}:
            for rank in range(nodes[source].rank + 1, node.rank):
                before = (source, rank - 1) if (source, rank - 1) in nodes else source
                nodes[source, rank] = Node(Box("", ports={"": {before}}), rank, 8, 0, [("", [], 0)])
    return nodes


def _ranks(box: Box, nodes: dict[Any, Node]) -> list[int]:
    return [nodes[s].rank for found in box.ports.values() for s in found if s in nodes]


def _node(box: Box, rank: int) -> Node:
    shown = [(port, _parameters(found)) for port, found in box.ports.items() if found]
    if not box.primitive and len(shown) == 1:
        shown = [("", shown[0][1])]
    widths = [max(len(text) for text in [port, *own, ""]) * SMALL + 12 for port, own in shown]
    title = max(len(box.name) * LETTER, len(box.says) * SMALL) + 20
    total = max(sum(widths), title)
    ports, left = [], -sum(widths) / 2
    for (port, own), wide in zip(shown, widths, strict=True):
        ports.append((port, own, left + wide / 2))
        left += wide
    rows = _rows(ports) + 1 + bool(box.says)
    return Node(box, rank, total, rows * LINE + MARGIN, ports)


def _rows(ports: list[tuple[str, list[str], float]]) -> int:
    """Lines above the title."""
    return max((bool(port) + len(own) for port, own, _ in ports), default=0)


def _parameters(sources: set[str | int]) -> list[str]:
    """Names of parameters, one for the two planes of a complex one."""
    names = [s.rpartition(".")[2] for s in sources if isinstance(s, str) and s != INPUT]
    return sorted({name.removesuffix("_re").removesuffix("_im") for name in names})


def _place(nodes: dict[Any, Node]) -> tuple[float, float]:
    """Gives each node its place; returns the size of the picture."""
    ranks: dict[int, list[Node]] = {}
    for node in nodes.values():
        ranks.setdefault(node.rank, []).append(node)
    spans = {r: sum(n.width for n in row) + GAP * (len(row) - 1) for r, row in ranks.items()}
    width, top = max(spans.values()) + 2 * GAP, float(GAP)
    for rank in sorted(ranks):
        row, left = ranks[rank], (width - spans[rank]) / 2
        if rank > 1:  # below what feeds them
            row.sort(key=lambda node: _above(node, nodes))
        tallest = max(node.height for node in row)
        for node in row:
            node.x, node.y = left + node.width / 2, top
            node.height = node.height or tallest  # a line that crosses the row
            left += node.width + GAP
        top += tallest + DROP
    return width, top - DROP + GAP


def _above(node: Node, nodes: dict[Any, Node]) -> float:
    found = [nodes[s].x for own in node.box.ports.values() for s in own if s in nodes]
    return sum(found) / len(found) if found else 0.0


def _lines(node: Node, nodes: dict[Any, Node]) -> list[str]:
    """The lines that come into a node."""
    found = [sources for sources in node.box.ports.values() if sources]
    drawn = []
    for sources, (_, _, offset) in zip(found, node.ports, strict=True):
        for source in sorted((s for s in sources if s in nodes), key=str):
            above, x, y = nodes.get((source, node.rank - 1), nodes[source]), node.x + offset, node.y
            start, bend = above.y + above.height, (y - above.y - above.height) / 2
            drawn.append(
                f'<path d="M{above.x:.0f} {start:.0f}C{above.x:.0f} {start + bend:.0f} {x:.0f} '
                f'{y - bend:.0f} {x:.0f} {y:.0f}" fill="none" stroke="currentColor" '
                'stroke-opacity=".55"/>'
            )
    if not node.box.name:
        drawn.append(
            f'<path d="M{node.x:.0f} {node.y:.0f}v{node.height:.0f}" stroke="currentColor" '
            'stroke-opacity=".55"/>'
        )
    return drawn


def _drawn(node: Node) -> str:
    rows, box = _rows(node.ports), node.box
    shape = (
        f'x="{node.x - node.width / 2:.0f}" y="{node.y:.0f}" width="{node.width:.0f}" '
        f'height="{node.height:.0f}" rx="4"'
    )
    shade = ".1" if box.primitive else "0"
    parts = [
        f'<rect {shape} fill="{BACKGROUND}"/>',
        f'<rect {shape} fill-opacity="{shade}" stroke="currentColor" stroke-opacity=".55"/>',
    ]
    for port, own, offset in node.ports:
        for row, text in enumerate([port, *own] if port else own):
            style = 'font-size="10"' + ("" if row == 0 and port else ' font-style="italic"')
            parts.append(_text(text, node.x + offset, node.y + (row + 0.9) * LINE, style))
    below = node.y + (rows + 0.95) * LINE
    parts.append(_text(box.name, node.x, below, 'font-weight="600"'))
    if box.says:
        parts.append(_text(box.says, node.x, below + LINE, 'font-size="10"'))
    return "".join(parts)


def _text(text: str, x: float, y: float, style: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" {style}>{escape(text)}</text>'
