"""`show` as text: golden pictures at two widths, and the small formats."""

import io
from dataclasses import dataclass

import pytest
from rich.console import Console, RenderableType

from tests.unit.control.fakes import FakeBackend, busy_backend, port
from vbackend.cli.render import backend_view, duration, findings_view, size, terminal
from vbackend.snapshot import (
    ImpairmentSnapshot,
    LaneCounters,
    RingSnapshot,
    SegmentSnapshot,
    UnitSnapshot,
    VhostSnapshot,
)

REASONS = {"queue-full": "the port's output queue is full", "no-peer": "nobody is connected to the port"}

GOLDEN_80 = """\
switch lab  pid 321, up 1 min 40 s, 2 workers, vbackend 0.1.0

PORTS
port   state      where                          peer
web    connected  stream:unix:/run/user/1000/la  unix pid 4711
                  b/web.sock                     (qemu-system-x86), for 1 min 10
                                                 s; session 1 ended: the peer
                                                 closed the connection; 1 turned
                                                 away; only from
                                                 52:54:00:00:00:01
host   connected  tap:vb0                        vb0 (namespace lab), for 1 min
                                                 40 s
db     dialling   stream:tcp:192.0.2.17:5555     connection refused, again in
                                                 2.0 s; isolated
spare  down       stream:unix:/tmp/a.sock        set down

TRAFFIC  rx came from the peer, tx went to it
port   rx frames  rx bytes  tx frames  tx bytes   queue  dropped
web    1,234,567   1.87 GB    698,000     55 MB  12/256    1,991
host          10     900 B          9     810 B    0/64        0
db             0       0 B          0       0 B   0/256       41
spare          0       0 B          0       0 B   0/256        0
total  1,234,577   1.87 GB    698,009     55 MB      12    2,032

DROPS
port  lane  frames  reason      meaning
web   rx         3  source-mac
web   tx     1,900  queue-full  the port's output queue is full
web   tx        88  no-peer     nobody is connected to the port
db    tx        41  no-peer     nobody is connected to the port

LEARNED ADDRESSES
address            port       last seen
52:54:00:00:00:01  web        0.4 s ago
fe:01:02:03:04:05  host  1 min 15 s ago

"""


def printed(view: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(view)
    file = console.file
    assert isinstance(file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def test_busy_switch_at_80_columns() -> None:
    assert printed(backend_view(busy_backend(), now=1_000_100.0, reasons=REASONS)) == GOLDEN_80


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_everything_fits_and_nothing_is_cut(width: int) -> None:
    text = printed(backend_view(busy_backend(), now=1_000_100.0, reasons=REASONS), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    squeezed = "".join(text.split())
    for port_shown in busy_backend().ports:
        assert port_shown.where in squeezed or width < 100
    assert "1,234,577" in text


UNITS_80 = """\
TUN UNITS
port  unit  flags              addresses           mtu  header             queue
prog  tun0  OPEN INITED IASET  10.7.0.1 ->        1500  sockaddr (darwin)  3/256
            PREPADDR UP        10.7.0.2
            POINTOPOINT

port  ipackets  ibytes  opackets     obytes  ierrors  oerrors  collisions  drops
prog         0  12,345         0  9,000,000        1        2           3      4
"""


def test_units_have_the_driver_s_flags_and_counters() -> None:
    unit = UnitSnapshot(
        name="tun0",
        flags=("OPEN", "INITED", "IASET", "PREPADDR"),
        if_flags=("UP", "POINTOPOINT"),
        addresses=("10.7.0.1 -> 10.7.0.2",),
        mtu=1500,
        tunmtu=9000,
        mode="pointopoint",
        header="sockaddr",
        family="darwin",
        queue_len=3,
        queue_limit=256,
        counters={
            "ipackets": 0,
            "ibytes": 12_345,
            "opackets": 0,
            "obytes": 9_000_000,
            "ierrors": 1,
            "oerrors": 2,
            "collisions": 3,
            "drops": 4,
            "input_drops": 0,
            "purged": 0,
        },
    )
    backend = FakeBackend()
    backend.ports = {"prog": port("prog", "unit:/tmp/u").model_copy(update={"unit": unit})}
    text = printed(backend_view(backend.snapshot(), now=0.0, reasons={}))
    assert text[text.index("TUN UNITS") : text.index("\nLEARNED")] == UNITS_80


def test_guests_of_a_multi_port_stand_below_it() -> None:
    names = ("lab", "web", "lab.1", "lab.2")
    backend = FakeBackend()
    backend.ports = {
        name: port(name).model_copy(update={"parent": "lab" if "." in name else None}) for name in names
    }
    text = printed(backend_view(backend.snapshot(), now=0.0, reasons={}))
    table = text.split("PORTS\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["lab", "lab.1", "lab.2", "web"]


def test_markup_in_names_is_only_text() -> None:
    backend = FakeBackend()
    backend.ports = {"x": port("x", "stream:unix:/tmp/[red]x[/red]")}
    assert "/tmp/[red]x[/red]" in printed(backend_view(backend.snapshot(), now=0.0, reasons={}), 120)


def test_idle_switch_and_cable() -> None:
    snapshot = FakeBackend().snapshot()
    text = printed(backend_view(snapshot, now=snapshot.started, reasons={}))
    assert "LEARNED ADDRESSES  none yet" in text
    assert "DROPS" not in text
    cable = SegmentSnapshot(name="default", kind="cable", ports=("a", "b"))
    text = printed(backend_view(snapshot.model_copy(update={"segments": (cable,)}), now=0.0, reasons={}))
    assert text.startswith("cable default  pid 4711, up 0.0 s, 1 worker, vbackend 1.2.3\n")
    assert "LEARNED" not in text


@dataclass(frozen=True)
class Found:
    name: str
    ok: bool
    found: str
    remedy: str = ""


def test_findings_name_the_remedy_of_what_lacks() -> None:
    findings = [
        Found("tun", True, "/dev/net/tun opens", "unused"),
        Found("kvm", False, "no /dev/kvm", "modprobe kvm"),
    ]
    assert printed(findings_view(findings)) == (
        "    what  found               remedy\n"
        "ok  tun   /dev/net/tun opens\n"
        "no  kvm   no /dev/kvm         modprobe kvm\n"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1999, "2 kB"),
        (12_345_678, "12.3 MB"),
        (999_600, "1 MB"),
        (10**18, "1,000 PB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0 s"),
        (0.44, "0.4 s"),
        (59.4, "59 s"),
        (59.9, "1 min 0 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_piped_output_has_a_fixed_width_and_no_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal().width == 100
    terminal().print("[red]x[/red]")
    assert capsys.readouterr().out == "x\n"


def test_a_rate_limit_is_shown_with_the_port() -> None:
    backend = FakeBackend()
    backend.ports = {"a": port("a").model_copy(update={"rate": 1_500_000, "burst": 64_000})}
    text = printed(backend_view(backend.snapshot(), now=0.0, reasons=REASONS), 120)
    assert "at most 1.5Mbit/s, burst 64kB" in text


IMPAIRED_80 = """\
IMPAIRMENTS  of what goes to the peer
port  settings              lost  twice  corrupt  delayed  reordered  on the way
a     delay=50ms loss=1%  12,345      0        0  999,999          0       1,234
      seed=7
"""


def test_an_impairment_has_a_table_of_its_own() -> None:
    backend = FakeBackend()
    settings = {"delay": "50ms", "loss": "1%", "seed": "7"}
    impairment = ImpairmentSnapshot(settings=settings, lost=12_345, delayed=999_999, held_frames=1_234)
    backend.ports = {"a": port("a").model_copy(update={"impairment": impairment}), "b": port("b")}
    text = printed(backend_view(backend.snapshot(), now=0.0, reasons=REASONS), 80)
    assert IMPAIRED_80 in text


@pytest.mark.parametrize(("queued", "held", "shown"), [(1_244, 1_234, "10/256"), (3, 4, "0/256")])
def test_what_is_on_its_way_is_in_no_queue(queued: int, held: int, shown: str) -> None:
    impairment = ImpairmentSnapshot(settings={"delay": "50ms"}, held_frames=held)
    lane = LaneCounters(frames_in=queued, queued=queued)
    one = port("a").model_copy(update={"impairment": impairment, "tx": lane})
    backend = FakeBackend()
    backend.ports = {"a": one}
    assert f" {shown} " in printed(backend_view(backend.snapshot(), now=0.0, reasons=REASONS), 80)


VHOST_80 = """\
VHOST-USER
port  memory   mtu  features                                   protocol features
vm    201 MB  9000  MRG_RXBUF INDIRECT_DESC EVENT_IDX          MQ REPLY_ACK
                    PROTOCOL_FEATURES VERSION_1
new   0 B        -

port  ring  way         size   kicks  calls     frames  state
vm       0  to guest     256       1  1,024  1,048,576  runs
vm       1  from guest   256  25,914      0          0  disabled
vm       3  from guest    64       0      0          0  stopped: descriptor
                                                        chain longer than the
                                                        ring
vm       5  from guest    64       0      0          0  stopped
"""


def test_front_ends_have_their_features_and_rings() -> None:
    rings = (
        RingSnapshot(index=0, size=256, running=True, enabled=True, kicks=1, calls=1_024, frames=1_048_576),
        RingSnapshot(index=1, size=256, running=True, enabled=False, kicks=25_914),
        RingSnapshot(
            index=3,
            size=64,
            running=False,
            enabled=True,
            problem="descriptor chain longer than the ring",
        ),
        RingSnapshot(index=5, size=64, running=False, enabled=True),
    )
    features = ("MRG_RXBUF", "INDIRECT_DESC", "EVENT_IDX", "PROTOCOL_FEATURES", "VERSION_1")
    vhost = VhostSnapshot(
        features=features, protocol_features=("MQ", "REPLY_ACK"), rings=rings, mtu=9000, memory=201_326_592
    )
    idle = VhostSnapshot(features=(), protocol_features=(), rings=(), mtu=None, memory=0)
    backend = FakeBackend()
    backend.ports = {
        "vm": port("vm", "vhost-user:/tmp/v").model_copy(update={"vhost": vhost}),
        "new": port("new", "vhost-user:/tmp/n").model_copy(update={"vhost": idle}),
    }
    text = printed(backend_view(backend.snapshot(), now=0.0, reasons={}))
    assert text[text.index("VHOST-USER") : text.index("\nLEARNED")] == VHOST_80
