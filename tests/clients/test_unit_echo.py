"""The example programs, as a reader of the README would use them: built, started, and pinged through."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP

from tests.bench.compiler import FLAGS
from tests.clients.unit_echo import answer
from tests.conformance.unit_port.lab import HERE, THERE, unit_lab
from tests.support.frames import vlan_frame
from tests.support.netns import Namespace, netns
from tests.support.qemu_peers import eventually
from tests.support.run import vbackend_run
from tests.support.stacks import ping
from tests.support.unit_peers import packet

__all__ = ["netns"]

FOLDER = Path(__file__).parent

Command = Callable[[str], list[str]]


def in_c(folder: Path) -> list[str]:
    program = folder / "unit_echo"
    subprocess.run(["cc", *FLAGS, "-o", str(program), str(FOLDER / "unit_echo.c")], check=True)
    return [str(program)]


def in_python(_: Path) -> list[str]:
    return [sys.executable, "-I", str(FOLDER / "unit_echo.py")]


@pytest.fixture(params=[in_c, in_python], ids=["C", "Python"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made: list[str] = request.param(tmp_path_factory.mktemp("clients"))
    return made


def echo(kind: int = 8) -> IP:
    return IP(src=THERE, dst="192.0.2.1") / ICMP(type=kind, id=7, seq=1) / b"hello"


def test_the_answer() -> None:
    for number in range(300):
        request = IP(src=THERE, dst="192.0.2.1") / ICMP(id=7, seq=number) / bytes([number & 255] * 5)
        reply = IP(src="192.0.2.1", dst=THERE) / ICMP(type=0, id=7, seq=number) / bytes([number & 255] * 5)
        assert answer(bytes(request)) == bytes(reply)
    for other in (
        b"",
        bytes(20),
        bytes(echo(0)),
        packet(THERE, HERE),
        bytes(echo())[:20],
        vlan_frame(b"", b"", 1),
    ):
        assert answer(other) is None


def test_the_c_client_fits_on_a_page() -> None:
    assert len((FOLDER / "unit_echo.c").read_text().splitlines()) <= 60


async def test_it_answers_and_ends_with_the_unit(command: list[str], tmp_path: Path) -> None:
    async with unit_lab(tmp_path, "header=null") as lab:
        guest = await lab.station()
        child = subprocess.Popen([*command, lab.path], stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220
        try:
            await eventually(lambda: lab.port.session and lab._unit_port._errors, "it has the unit open")
            await guest.send(packet(THERE, HERE), bytes(echo()))
            reply = IP(await guest.recv())
            assert (reply.src, reply.dst, reply[ICMP].type) == ("192.0.2.1", THERE, 0)
            assert bytes(reply[ICMP].payload) == b"hello"
            assert lab.port.rx.drops == {}
            await lab.backend.remove_port("unit")
            await eventually(lambda: child.poll() is not None, "it ends")
        finally:
            child.kill()
            _, said = child.communicate()
        assert (child.returncode, "Traceback" in said) == (0, False)
        await lab.backend.stop()
        await lab.backend.start([])


@pytest.mark.root
def test_a_kernel_pings_it(command: list[str], tmp_path: Path, netns: Namespace) -> None:
    unit = f"unit:{tmp_path}/u,name=u,addr={HERE},peer={THERE},header=null"
    tap = f"tap:tap0,netns={netns.name},addr={THERE}/24"
    with vbackend_run(tmp_path, unit, tap) as run, subprocess.Popen([*command, f"{tmp_path}/u"]) as child:
        try:
            run.wait_connected("u")
            for size in (64, 1500):
                ping(netns, HERE, size=size)
            ping(netns, "10.7.0.77", size=64)  # the unit answers ARP for everybody, and so does the program
            assert run.port("u").rx.drops == {}
        finally:
            child.kill()
