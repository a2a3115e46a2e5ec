"""Places for the nodes of a small graph: as far apart as they have links between them. Pure and deterministic.

Stress majorization (Gansner, Koren and North, "Graph Drawing by Stress Majorization", 2004), one node at a time; each
connected part on its own, turned so that it lies flat, and below the one before. O(n²) a round, so for labs of up to
some hundred nodes.
"""

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

__all__ = ["Link", "Point", "Size", "layout"]

Point = tuple[float, float]
Size = tuple[float, float]  # width and height
Link = tuple[int, int, float]  # two node numbers, and how far apart they are to be

_ROUNDS: Final = 150
_GAP: Final = 30.0  # between nodes, at least


def layout(sizes: Sequence[Size], links: Sequence[Link]) -> list[Point]:
    """The centres of the nodes, all of which are in the quadrant of positive numbers."""
    places: list[Point] = [(0.0, 0.0)] * len(sizes)
    top = 0.0
    for part in _parts(len(sizes), links):
        own = {node: number for number, node in enumerate(part)}
        inside = [(own[a], own[b], length) for a, b, length in links if a in own]
        points = _apart(_flat(_stress(len(part), inside)), [sizes[node] for node in part])
        left = min(x - sizes[node][0] / 2 for (x, _), node in zip(points, part, strict=True))
        above = min(y - sizes[node][1] / 2 for (_, y), node in zip(points, part, strict=True))
        for (x, y), node in zip(points, part, strict=True):
            places[node] = (x - left, y - above + top)
        top = max(places[node][1] + sizes[node][1] / 2 for node in part) + 2 * _GAP
    return places


def _parts(count: int, links: Sequence[Link]) -> list[list[int]]:
    parts, seen = [], set[int]()
    for node in range(count):
        if node not in seen:
            part = [other for other, far in enumerate(_far(node, count, links)) if far < math.inf]
            seen |= set(part)
            parts.append(part)
    return parts


def _far(start: int, count: int, links: Sequence[Link]) -> list[float]:
    """The shortest way from `start` to every node (Dijkstra); infinite: there is none."""
    beside: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for a, b, length in links:
        beside[a].append((b, length))
        beside[b].append((a, length))
    found = [math.inf] * count
    waiting = [(0.0, start)]
    while waiting:
        far, node = heapq.heappop(waiting)
        if far < found[node]:
            found[node] = far
            for other, length in beside[node]:
                heapq.heappush(waiting, (far + length, other))
    return found


def _stress(count: int, links: Sequence[Link]) -> list[Point]:
    wanted = [_far(node, count, links) for node in range(count)]
    points = _start(wanted)
    for _ in range(_ROUNDS if count > 1 else 0):
        for node in range(count):
            x = y = weights = 0.0
            for other in range(count):
                if other == node:
                    continue
                far = wanted[node][other]
                dx, dy = points[node][0] - points[other][0], points[node][1] - points[other][1]
                now = math.hypot(dx, dy) or 1e-9
                weight = far**-2
                x += weight * (points[other][0] + far * dx / now)
                y += weight * (points[other][1] + far * dy / now)
                weights += weight
            points[node] = (x / weights, y / weights)
    return points


def _start(wanted: list[list[float]]) -> list[Point]:
    """By the distance from an outermost node, those of the same distance above and below each other.

    So that a chain is straight from the start, which stress alone is slow to reach. Nothing is quite on one line, since
    stress cannot leave it.
    """
    outermost = max(range(len(wanted)), key=lambda node: wanted[0][node])
    far = wanted[outermost]
    step = max(far) / 4 or 1.0
    seen = Counter[float]()
    points = []
    for node, x in enumerate(far):
        row = seen[x]
        seen[x] += 1
        aside = (row + 1) // 2 * (1 if row % 2 else -1)
        points.append((x, step * (aside + (node * 7 % 11 - 5) / 5000)))
    return points


def _flat(points: list[Point]) -> list[Point]:
    """Turned so that the longest extent is from left to right."""
    mx, my = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    xx = sum((x - mx) ** 2 for x, _ in points)
    yy = sum((y - my) ** 2 for _, y in points)
    xy = sum((x - mx) * (y - my) for x, y in points)
    angle = -0.5 * math.atan2(2 * xy, xx - yy)
    cos, sin = math.cos(angle), math.sin(angle)
    turned = [((x - mx) * cos - (y - my) * sin, (x - mx) * sin + (y - my) * cos) for x, y in points]
    flip = -1 if turned[0][0] > turned[-1][0] else 1  # the first node of the file to the left
    return [(flip * x, flip * y) for x, y in turned]


def _apart(points: list[Point], sizes: Sequence[Size]) -> list[Point]:
    """Nodes that overlap are moved apart, along the axis where they overlap less."""
    for _ in range(_ROUNDS):
        moved = False
        for a in range(len(points)):
            for b in range(a):
                dx, dy = points[a][0] - points[b][0], points[a][1] - points[b][1]
                across = (sizes[a][0] + sizes[b][0]) / 2 + _GAP - abs(dx)
                along = (sizes[a][1] + sizes[b][1]) / 2 + _GAP - abs(dy)
                if across <= 1e-6 or along <= 1e-6:
                    continue
                moved = True
                if across < along:
                    push = math.copysign(across / 2, dx)
                    points[a] = (points[a][0] + push, points[a][1])
                    points[b] = (points[b][0] - push, points[b][1])
                else:
                    push = math.copysign(along / 2, dy)
                    points[a] = (points[a][0], points[a][1] + push)
                    points[b] = (points[b][0], points[b][1] - push)
        if not moved:
            break
    return points
