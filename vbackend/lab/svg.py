"""A drawing of a lab as SVG 1.1, on its own: no scripts, no fonts, no style sheets of others. Pure."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from vbackend.lab.graph import Drawing, Line, Node
from vbackend.lab.layout import Point, Size, layout

__all__ = ["svg"]

_LETTER: Final = 7.0  # width of one of 12 px, about
_ROW: Final = 16.0
_MARGIN: Final = 30.0
_LENGTHS: Final = (90.0, 300.0)  # of lines between nodes
_NIC: Final = 26.0  # how far from its node a NIC is named
_BEND: Final = 60.0  # how far links between the same two nodes part
_NO_XML: Final = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE: Final = """
text { font: 12px sans-serif; text-anchor: middle; fill: #1a1a1a }
.name { font-weight: bold }
.nic { font-size: 10px; fill: #555 }
.vm { fill: #e3f2fd; stroke: #1565c0 }
.switch { fill: #e8f5e9; stroke: #2e7d32 }
.port { fill: #fff8e1; stroke: #ef6c00 }
.link { fill: none; stroke: #444; stroke-width: 1.5 }
path.down { stroke: #c62828; stroke-dasharray: 6 4 }
text.down { fill: #c62828 }
"""


def svg(what: Drawing) -> str:
    """The text of the picture; the same drawing gives the same text."""
    sizes = [_size(node) for node in what.nodes]
    lengths = dict[tuple[int, int], float]()
    for line in what.lines:
        a, b = sorted(line.ends)
        if a != b:
            lengths[a, b] = max(lengths.get((a, b), 0.0), _length(line, sizes))
    links = [(a, b, length) for (a, b), length in lengths.items()]
    places = [(x + _MARGIN, y + _MARGIN) for x, y in layout(sizes, links)]
    paths, words = list[str](), list[str]()
    points = list[Point]()
    seen = Counter[frozenset[int]]()
    twins = Counter(frozenset(line.ends) for line in what.lines)
    for line in what.lines:
        both = frozenset(line.ends)
        start, bend, end = _curve(what, line, places, sizes, (seen[both], twins[both]))
        seen[both] += 1
        down = "" if line.up else " down"
        paths.append(f'<path class="link{down}" d="M{_xy(start)} Q{_xy(bend)} {_xy(end)}"/>')
        middle = _on_curve(start, bend, end, 0.5)
        words += _label(line.words, middle, f"words{down}")
        points += [
            middle,
            *((middle[0] + s * len(word) * _LETTER / 2, middle[1]) for word in line.words for s in (-1, 1)),
        ]
        near = min(_NIC / max(math.dist(start, end), 1.0), 0.35)
        for nic, at in zip(line.nics, (near, 1 - near), strict=True):
            words += _label((nic,) if nic else (), _on_curve(start, bend, end, at), "nic")
    boxes = [
        piece
        for node, place, size in zip(what.nodes, places, sizes, strict=True)
        for piece in _node(node, place, size)
    ]
    points += [
        (x + s * w / 2, y + s * h / 2) for (x, y), (w, h) in zip(places, sizes, strict=True) for s in (-1, 1)
    ]
    left = min([0.0, *(x - _MARGIN for x, _ in points)])
    top = min([0.0, *(y - _MARGIN for _, y in points)])
    width = max([200.0, *(x + _MARGIN for x, _ in points)]) - left
    height = max([60.0, *(y + _MARGIN for _, y in points)]) - top
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img">'
    )
    ground = f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" fill="#fff"/>'
    title = f"<title>{_plain(what.title)}</title>"
    return "\n".join([head, title, f"<style>{_STYLE}</style>", ground, *paths, *boxes, *words, "</svg>", ""])


def _size(node: Node) -> Size:
    wide = max(len(word) for word in node.words) * _LETTER + 24
    return wide * (1.3 if node.kind == "port" else 1), len(node.words) * _ROW + (
        24 if node.kind == "port" else 14
    )


def _node(node: Node, place: Point, size: Size) -> list[str]:
    (x, y), (wide, high) = place, size
    if node.kind == "port":
        shape = f'<ellipse class="port" cx="{x:.1f}" cy="{y:.1f}" rx="{wide / 2:.1f}" ry="{high / 2:.1f}"/>'
    else:
        round_ = high / 2 if node.kind == "switch" else 3
        shape = (
            f'<rect class="{node.kind}" x="{x - wide / 2:.1f}" y="{y - high / 2:.1f}" '
            f'width="{wide:.1f}" height="{high:.1f}" rx="{round_:.1f}"/>'
        )
    return [shape, *_text(node.words, place, "", first="name")]


def _text(words: Sequence[str], place: Point, style: str, first: str = "") -> list[str]:
    """Rows of text around a point."""
    top = place[1] - (len(words) - 1) * _ROW / 2 + 4
    found = []
    for number, word in enumerate(words):
        kind = " ".join(each for each in (style, first if number == 0 else "") if each)
        mark = f' class="{kind}"' if kind else ""
        found.append(f'<text{mark} x="{place[0]:.1f}" y="{top + number * _ROW:.1f}">{_plain(word)}</text>')
    return found


def _label(words: Sequence[str], place: Point, style: str) -> list[str]:
    """Text on white, so that the line behind it does not strike it out."""
    if not words:
        return []
    wide, high = max(map(len, words)) * _LETTER + 4, len(words) * _ROW
    x, y = place[0] - wide / 2, place[1] - high / 2
    ground = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="#fff" opacity="0.85"/>'
    )
    return [ground, *_text(words, place, style)]


def _length(line: Line, sizes: Sequence[Size]) -> float:
    """How far apart two nodes are to be, so that the words between them have room."""
    longest = (
        max(map(len, line.words), default=0) * _LETTER + sum(len(nic) + 3 for nic in line.nics) * _LETTER
    )
    nodes = (sizes[line.ends[0]][0] + sizes[line.ends[1]][0]) / 2
    return nodes + min(max(_LENGTHS[0], longest), _LENGTHS[1])


def _plain(text: str) -> str:
    """Escaped, without what XML 1.0 cannot have (section 2.2)."""
    return escape(_NO_XML.sub("\ufffd", text))


def _curve(
    what: Drawing, line: Line, places: Sequence[Point], sizes: Sequence[Size], twin: tuple[int, int]
) -> tuple[Point, Point, Point]:
    """Start, control point and end of a quadratic curve; straight unless there are others between its nodes.

    `twin`: which of how many between them it is.
    """
    a, b = line.ends
    if a == b:
        (x, y), (wide, high) = places[a], sizes[a]
        bend = (x, y - high - 2 * _BEND * (twin[0] + 1))
        return (x - wide / 2, y), bend, (x + wide / 2, y)
    low, high_ = sorted((a, b))  # so that twins part however their ends are ordered
    dx, dy = places[high_][0] - places[low][0], places[high_][1] - places[low][1]
    far = math.hypot(dx, dy)
    aside = (twin[0] - (twin[1] - 1) / 2) * 2 * _BEND
    middle = ((places[a][0] + places[b][0]) / 2, (places[a][1] + places[b][1]) / 2)
    bend = (middle[0] - dy / far * aside, middle[1] + dx / far * aside)
    start, end = (_edge(what.nodes[node], places[node], sizes[node], bend) for node in line.ends)
    return start, bend, end


def _edge(node: Node, centre: Point, size: Size, towards: Point) -> Point:
    """Where the way from a node's centre leaves it."""
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    if node.kind == "port":
        part = 1 / max(math.hypot(dx / (size[0] / 2), dy / (size[1] / 2)), 1.0)
    else:
        part = min(size[0] / 2 / abs(dx) if dx else math.inf, size[1] / 2 / abs(dy) if dy else math.inf, 1.0)
    return centre[0] + dx * part, centre[1] + dy * part


def _on_curve(start: Point, bend: Point, end: Point, at: float) -> Point:
    one, two, three = (1 - at) ** 2, 2 * at * (1 - at), at**2
    return (
        one * start[0] + two * bend[0] + three * end[0],
        one * start[1] + two * bend[1] + three * end[1],
    )


def _xy(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"
