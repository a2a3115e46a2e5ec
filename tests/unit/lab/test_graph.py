"""Drawings of labs, and Mermaid's text."""

import pytest

from vbackend.lab.graph import Drawing, Line, Node, drawing, mermaid, shown_rate
from vbackend.lab.load import parse_lab

TWO = """
name = "two"
[vm.r1]
image = "./recipes/router.toml"
[vm.r2]
kernel = "vmlinuz"
[switch.lan]
ports = ["r1:eth0", "tap:lab0,addr=10.0.0.254/24"]
addr = ["10.0.0.1/24"]
dns = {}
[[cable]]
ends = ["r1:eth1", "r2:eth1"]
name = "core"
up = false
delay = "50ms"
back.loss = "1%"
[[cable]]
ends = ["r2:eth2", "r2:eth3"]
rate = "1M"
[[cable]]
ends = ["r2:eth4", "tap:x"]
back.loss = "2%"
[[cable]]
ends = ["lan:up", "r1:eth2"]
loss = "3%"
back.loss = "4%"
"""


def test_drawing() -> None:
    what = drawing(parse_lab(TWO), {"core": (1.5e6, 12), "lan/lab0": (0, 2e3)})
    assert what == Drawing(
        "two",
        (
            Node("vm", ("r1", "router")),
            Node("vm", ("r2", "vmlinuz")),
            Node("switch", ("lan", "10.0.0.1/24", "dns")),
            Node("port", ("tap:lab0", "10.0.0.254/24")),
            Node("port", ("tap:x",)),
        ),
        (
            Line((0, 2), ("eth0", ""), ()),
            Line((3, 2), ("", ""), ("lab0 → lan: 0 bit/s", "lan → lab0: 2.0 kbit/s")),
            Line(
                (0, 1),
                ("eth1", "eth1"),
                (
                    "core",
                    "down",
                    "r1 → r2: delay 50ms",
                    "r2 → r1: delay 50ms, loss 1%",
                    "r1 → r2: 1.5 Mbit/s",
                    "r2 → r1: 12 bit/s",
                ),
                up=False,
            ),
            Line((1, 1), ("eth2", "eth3"), ("rate 1M",)),
            Line((1, 4), ("eth4", ""), ("x → r2: loss 2%",)),
            Line((2, 0), ("up", "eth2"), ("lan → r1: loss 3%", "r1 → lan: loss 4%")),
        ),
    )


def test_mermaid() -> None:
    what = drawing(parse_lab(TWO))
    assert mermaid(what) == (
        "---\ntitle: two\n---\nflowchart LR\n"
        '  n0["r1<br/>router"]\n'
        '  n1["r2<br/>vmlinuz"]\n'
        '  n2("lan<br/>10.0.0.1/24<br/>dns")\n'
        '  n3(["tap:lab0<br/>10.0.0.254/24"])\n'
        '  n4(["tap:x"])\n'
        '  n0 ---|"eth0"| n2\n'
        "  n3 --- n2\n"
        '  n0 -.-|"eth1 - eth1<br/>core<br/>down<br/>r1 → r2: delay 50ms<br/>r2 → r1: delay 50ms, loss 1%"| n1\n'
        '  n1 ---|"eth2 - eth3<br/>rate 1M"| n1\n'
        '  n1 ---|"eth4<br/>x → r2: loss 2%"| n4\n'
        '  n2 ---|"up - eth2<br/>lan → r1: loss 3%<br/>r1 → lan: loss 4%"| n0\n'
        "  linkStyle 2 stroke:#c62828,stroke-dasharray:6 4\n"
    )


def test_mermaid_takes_no_text_for_its_own() -> None:
    what = Drawing("t", (Node("vm", ('a"]\n<b> & `#35;',)),), ())
    assert 'n0["a#34;]#10;#60;b#62; #38; #96;#35;35;"]' in mermaid(what)


@pytest.mark.parametrize(
    ("bits", "words"),
    [(0, "0 bit/s"), (999, "999 bit/s"), (1000, "1.0 kbit/s"), (2.55e6, "2.5 Mbit/s"), (1e10, "10.0 Gbit/s")],
)
def test_rates(bits: float, words: str) -> None:
    assert shown_rate(bits) == words
