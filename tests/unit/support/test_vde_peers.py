"""The fake client against the real vde_switch: what it says is understood there."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.frames import BROADCAST, frame, mac
from tests.support.run import wait_until
from tests.support.vde_peers import FakeVdeClient


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Path]:
    """The directory of a running vde_switch."""
    if shutil.which("vde_switch") is None:
        pytest.skip("there is no vde_switch: on Debian it is in package vde2")
    directory = tmp_path / "switch"
    command = ["vde_switch", "--sock", str(directory), "--rcfile", os.devnull]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        try:
            wait_until(lambda: (directory / "ctl").exists(), "vde_switch listens")
            yield directory
        finally:
            child.kill()


async def test_two_clients_and_a_switch(switch: Path, tmp_path: Path) -> None:
    with (
        await FakeVdeClient.plug(switch, tmp_path / "a") as a,
        await FakeVdeClient.plug(switch, b"\0vbackend" + os.urandom(97) + b"\0\xff", version=1) as b,
        await FakeVdeClient.plug(switch, tmp_path / "c", port=7, connected=False) as c,
    ):
        assert c.switch.startswith(os.fsencode(switch / "007."))
        for sender, others in ((a, (b, c)), (b, (a, c))):
            hello = frame(BROADCAST, mac(1), b"hello")
            await sender.send(hello)
            assert [await other.recv() for other in others] == [hello, hello]
        await c.send_by_address(frame(BROADCAST, mac(3), b"by address"))
        assert await a.recv() == await b.recv() == frame(BROADCAST, mac(3), b"by address")
