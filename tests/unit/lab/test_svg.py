"""Pictures of labs, read by an XML parser."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.labs import labs
from vbackend.lab.graph import Drawing, Line, Node, drawing
from vbackend.lab.model import Lab
from vbackend.lab.svg import svg

NS = "{http://www.w3.org/2000/svg}"


def texts(picture: ElementTree.Element) -> list[str]:
    return [each.text or "" for each in picture.iter(f"{NS}text")]


@given(labs())
def test_any_lab_is_valid_xml_and_complete(lab: Lab) -> None:
    what = drawing(lab, dict.fromkeys(lab.links(), (1e6, 0.0)))
    picture = ElementTree.fromstring(svg(what))
    assert picture.tag == f"{NS}svg"
    assert len(list(picture.iter(f"{NS}path"))) == len(what.lines)
    wanted = [word for node in what.nodes for word in node.words]
    wanted += [word for line in what.lines for word in (*line.words, *line.nics) if word]
    assert sorted(texts(picture)) == sorted(wanted)
    assert svg(what) == svg(what)


def test_shapes() -> None:
    nodes = (Node("vm", ("a",)), Node("switch", ("b",)), Node("port", ("c",)))
    lines = (
        Line((0, 1), ("", ""), ()),
        Line((1, 2), ("", ""), ("down",), up=False),
        Line((0, 0), ("x", "y"), ()),
    )
    picture = ElementTree.fromstring(svg(Drawing("t", nodes, lines)))
    kinds = [(each.tag.removeprefix(NS), each.get("class")) for each in picture if each.get("class")]
    assert [kind for kind in kinds if kind[0] != "text"] == [
        ("path", "link"),
        ("path", "link down"),
        ("path", "link"),
        ("rect", "vm"),
        ("rect", "switch"),
        ("ellipse", "port"),
    ]
    assert ("text", "words down") in kinds


def test_cables_between_the_same_two_part() -> None:
    nodes = (Node("vm", ("a",)), Node("vm", ("b",)))
    picture = svg(Drawing("t", nodes, (Line((0, 1), ("", ""), ()), Line((1, 0), ("", ""), ()))))
    one, two = (each.get("d") for each in ElementTree.fromstring(picture).iter(f"{NS}path"))
    bends = [str(path).split("Q")[1].split()[1] for path in (one, two)]
    assert len(set(bends)) == 2


@pytest.mark.parametrize("text", ["<a> & \"b\" 'c'", "]]>", "\x00\x1b", "<script>"])
def test_words_are_only_words(text: str) -> None:
    what = Drawing(text, (Node("vm", (text,)), Node("port", ("p",))), (Line((0, 1), (text, ""), (text,)),))
    picture = ElementTree.fromstring(svg(what))
    shown = "".join(letter if letter >= " " else "\ufffd" for letter in text)
    assert texts(picture).count(shown) == 3
    assert not list(picture.iter(f"{NS}script"))


@given(st.text(max_size=20))
def test_any_words_are_valid_xml(text: str) -> None:
    ElementTree.fromstring(svg(Drawing(text, (Node("vm", (text,)),), ())))
