"""Clients that lie, stall, come in crowds and die: each ends alone, with a reason; the others do not notice."""

import asyncio
import errno
import gc
import os
import random
import socket
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conformance.vde.lab import Lab, vde_lab
from tests.support.fds import open_fds
from tests.support.frames import BROADCAST, frame, mac
from tests.support.privileges import as_user
from tests.support.vde_peers import FakeVdeClient, connect, request
from vbackend.ports import vde

HELLO = frame(BROADCAST, mac(1), b"hello")


async def ask(lab: Lab, data: bytes) -> None:
    """Say this and be sent away."""
    with await connect(lab.directory) as control:
        await asyncio.get_running_loop().sock_sendall(control, data)
        with pytest.raises(EOFError):
            await FakeVdeClient.hear(control)


async def works(lab: Lab) -> None:
    """A good client has a port still."""
    (lab.folder / "good").unlink(missing_ok=True)
    with await lab.plug("good") as good:
        await good.send(HELLO)
        assert await lab.channel.recv() == HELLO
    await lab.clients(0)


async def test_requests_that_are_none(lab: Lab) -> None:
    path = os.fsencode(lab.folder / "a")
    await ask(lab, b"GET /ctl HTTP/1.1\r\n\r\n")
    await ask(lab, request(path, version=4))
    await ask(lab, request(path, kind=99))
    await ask(lab, request(path, family=socket.AF_INET6))
    await ask(lab, request(b"/" * 108))
    await lab.refusals("47 45 54 20", "version 4", "type 99", f"family {socket.AF_INET6:d}", "no end")
    await works(lab)


async def test_data_sockets_that_are_none(lab: Lab) -> None:
    """Files, links to sockets, our own sockets, and what is somebody else's already."""
    (lab.folder / "file").touch()
    with (
        await lab.plug("a") as a,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs,
    ):
        theirs.bind(str(lab.folder / "theirs"))
        (lab.folder / "link").symlink_to("theirs")
        await ask(lab, request(os.fsencode(lab.folder / "file")))
        await ask(lab, request(os.fsencode(lab.folder / "link")))
        await ask(lab, request(os.fsencode(lab.directory / "ctl")))
        await ask(lab, request(a.switch))
        await ask(lab, request(os.fsencode(lab.folder / "a")))
        await ask(lab, request(os.fsencode(lab.directory / "../missing")))
        await ask(lab, request(b"\0nobody".ljust(108, b"\0")))
        await lab.refusals(
            "is no socket",
            "is no socket",
            os.strerror(errno.EPROTOTYPE),
            os.strerror(errno.EPERM),
            os.strerror(errno.EPERM),
            os.strerror(errno.ENOENT),
            os.strerror(errno.ECONNREFUSED),
        )
        await a.send(HELLO)
        assert await lab.channel.recv() == HELLO
    await works(lab)


async def test_nobody_else_can_send_to_a_client_s_port(lab: Lab) -> None:
    with await lab.plug("a") as a, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.bind(str(lab.folder / "stranger"))
        with pytest.raises(PermissionError):
            stranger.sendto(frame(BROADCAST, mac(9)), a.switch)
        await a.send(HELLO)
        assert await lab.channel.recv() == HELLO


async def test_stalling_clients_make_place(lab: Lab) -> None:
    """More than may ask at once, all in the middle of their request, and a good one all the while."""
    controls = [await connect(lab.directory) for _ in range(vde._MOST_ASKING + 20)]
    for control in controls:
        with suppress(BrokenPipeError):  # sent away already
            await asyncio.get_running_loop().sock_sendall(control, request(b"/a")[:60])
    await works(lab)
    for control in controls:
        control.close()
    await works(lab)
    assert sum("others came" in reason for reason in lab.refused) >= 20
    assert sum("in the middle of its request, 60 bytes" in reason for reason in lab.refused) >= 60


async def test_a_huge_description_is_cut(lab: Lab) -> None:
    path = str(lab.folder / "a")
    with await connect(lab.directory) as control, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as data:
        data.bind(path)
        said = request(os.fsencode(path), description=b"\x1b]0;" + b"x" * 60_000)
        await asyncio.get_running_loop().sock_sendall(control, said)
        assert (await FakeVdeClient.hear(control)).startswith(os.fsencode(lab.directory))
        session = lab.ports[0].session
        assert session is not None
        assert session.peer.endswith("): ?]0;" + "x" * 124)
    await works(lab)


async def test_the_same_socket_twice(lab: Lab) -> None:
    """The second is refused: who has a peer takes no other."""
    with await lab.plug("a"):
        await ask(lab, request(os.fsencode(lab.folder / "a")))
    await lab.refusals(os.strerror(errno.EPERM))


async def test_many_come_and_go(lab: Lab) -> None:
    """A hundred at a time, some of which leave while they ask; descriptors and paths are given back."""
    gc.collect()  # what earlier tests left to it
    before = len(open_fds())
    dice = random.Random(5)

    async def come(name: str) -> None:
        if dice.random() < 0.3:
            with await connect(lab.directory) as control:
                cut = dice.randrange(130)
                await asyncio.get_running_loop().sock_sendall(control, request(b"/a")[:cut])
            return
        with await lab.plug(name) as client:
            await client.send(HELLO)
            if dice.random() < 0.5:
                client.data.close()
                await asyncio.sleep(0)

    for turn in range(3):
        await asyncio.gather(*(come(f"{turn}-{number}") for number in range(100)))
        lab.channel.recv_ready()
    await lab.clients(0)
    assert [path.name for path in lab.directory.iterdir()] == ["ctl"]
    await works(lab)
    gc.collect()
    assert len(open_fds()) == before


async def test_a_planted_file_is_not_ours(lab: Lab) -> None:
    """Where the switch's end would be there is something already: the client is refused, the file stays."""
    planted = lab.directory / f"001.{os.getpid()}"
    planted.write_text("precious")
    with pytest.raises(EOFError):
        await lab.plug("a")
    await lab.refusals("there is a file that is no socket")
    assert planted.read_text() == "precious"
    planted.unlink()
    (lab.folder / "a").unlink()
    await works(lab)


@pytest.mark.root
async def test_another_user_s_socket_is_not_written_to() -> None:
    """vbackend is root, its client is not, and names the socket of somebody to whom it could not send itself."""
    with (
        TemporaryDirectory(prefix="vb-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as precious,
    ):
        place = Path(folder)
        place.chmod(0o755)
        (place / "own").mkdir()
        os.chown(place / "own", 65534, 65534)
        precious.bind(f"{place}/precious")
        async with vde_lab(place, ",mode=0666") as lab:
            assert await _as_nobody(lab.directory, place / "precious") == "refused"
            await lab.refusals("is of user 0, and it of 65534")
            told = await _as_nobody(lab.directory, place / "own/data")
            assert told == f"{lab.directory}/001.{os.getpid()}"


_CLIENT = """
import os, socket, struct, sys
directory, path = sys.argv[1:]
control, data = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
control.connect(directory + "/ctl")
if not os.path.exists(path):
    data.bind(path)
control.send(struct.pack("=IIIH108s", 0xFEEDFACE, 3, 0, socket.AF_UNIX, path.encode()))
told = control.recv(110)
if told:
    data.connect(told[2:].rstrip(b"\\0"))
    data.send(bytes(14))
print(told[2:].rstrip(b"\\0").decode() or "refused")
"""


async def _as_nobody(directory: Path, path: Path) -> str:
    """Ask for a port as an ordinary user; the path that it was told, once it has sent a frame, or "refused"."""
    words = [*as_user(65534), sys.executable, "-c", _CLIENT]
    child = await asyncio.create_subprocess_exec(
        *words, str(directory), str(path), stdout=asyncio.subprocess.PIPE
    )
    told, _ = await child.communicate()
    assert child.returncode == 0
    return told.decode().strip()
