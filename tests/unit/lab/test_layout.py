"""Places of nodes: known figures, and any graph."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbackend.lab.layout import Link, Point, Size, layout

BOX: Size = (60.0, 30.0)


def far(a: Point, b: Point) -> float:
    return math.dist(a, b)


def test_a_chain_lies_flat_from_left_to_right() -> None:
    places = layout([BOX] * 4, [(0, 1, 200), (1, 2, 100), (2, 3, 200)])
    assert [round(far(a, b)) for a, b in pairwise(places)] == pytest.approx([200, 100, 200], abs=2)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert max(y for _, y in places) - min(y for _, y in places) < 5


def test_a_star_has_its_middle_in_the_middle() -> None:
    middle, *rays = layout([BOX] * 6, [(0, ray, 200) for ray in range(1, 6)])
    assert all(far(middle, ray) == pytest.approx(200, rel=0.25) for ray in rays)


def test_parts_are_below_each_other() -> None:
    one, two, three = layout([BOX] * 3, [(0, 1, 100)])
    assert three[1] - BOX[1] / 2 > max(one[1], two[1]) + BOX[1] / 2
    assert layout([], []) == []


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Size], list[Link]]:
    count = draw(st.integers(1, 9))
    node = st.integers(0, count - 1)
    sizes = draw(st.lists(st.tuples(st.floats(10, 200), st.floats(10, 90)), min_size=count, max_size=count))
    pairs = draw(st.lists(st.tuples(node, node).filter(lambda pair: pair[0] != pair[1]), max_size=12))
    return sizes, [(a, b, 150.0) for a, b in pairs]


@given(graphs())
def test_any_graph_is_inside_and_the_same_again(graph: tuple[list[Size], list[Link]]) -> None:
    sizes, links = graph
    places = layout(sizes, links)
    assert places == layout(sizes, links)
    for (x, y), (wide, high) in zip(places, sizes, strict=True):
        assert math.isfinite(x)
        assert math.isfinite(y)
        assert x - wide / 2 > -1e-6
        assert y - high / 2 > -1e-6


@given(graphs())
def test_no_two_nodes_overlap(graph: tuple[list[Size], list[Link]]) -> None:
    sizes, links = graph
    places = layout(sizes, links)
    for a in range(len(places)):
        for b in range(a):
            across = abs(places[a][0] - places[b][0]) >= (sizes[a][0] + sizes[b][0]) / 2
            along = abs(places[a][1] - places[b][1]) >= (sizes[a][1] + sizes[b][1]) / 2
            assert across or along
