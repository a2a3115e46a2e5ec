"""A stock guest and a tun unit: an address on its card is all it needs, whoever reads the unit.

guest, 10.7.0.2 ── stream ── vbackend ─┬─ tun:tun0 ─────────────── a namespace's kernel, 10.7.0.1
                                       ├─ unit:PATH ── splice.py ── the same
                                       └─ unit:PATH ── a slow program
"""

import asyncio
import hashlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.guests.wiring import DIALLED, mac
from tests.support import splice
from tests.support.guest import Guest, Guests, nic
from tests.support.netns import Namespace, namespace
from tests.support.run import Run, vbackend_run
from tests.support.stacks import ping, socket_in

pytestmark = [pytest.mark.guest, pytest.mark.root, pytest.mark.timeout(240)]

HOST, GUEST, HOST6, GUEST6 = "10.7.0.1", "10.7.0.2", "fd07::1", "fd07::2"
UNIT: Final = f"addr={HOST},peer={GUEST},addr={HOST6},peer={GUEST6},mac=52:54:00:00:00:fe"
BULK: Final = 1_000_000
DATAGRAMS: Final = 1000  # more than the socket (some 280) and queue= hold


async def test_a_guest_and_each_kind_of_reader(guests: Guests, tmp_path: Path) -> None:
    """One guest for all of them: QEMU listens, and each backend dials it anew."""
    guest = await guests.boot("g", network=nic(DIALLED.netdev(tmp_path, "g"), mac(2)))
    await guest.configure(mac(2), [f"{GUEST}/24", f"{GUEST6}/64"])
    port = DIALLED.port(tmp_path, "g")
    with namespace() as host:
        with vbackend_run(tmp_path, port, f"tun:tun0,netns={host.name},{UNIT}", name="tun") as run:
            run.wait_connected("g", "tun0")
            await _everything(guest, host, "tun0")
            unit = run.port("tun0").unit
            assert unit is not None
            assert min(unit.counters["ibytes"], unit.counters["obytes"]) > 2 * BULK
        path = f"{tmp_path}/u"
        with (
            vbackend_run(tmp_path, port, f"unit:{path},name=u,{UNIT}", name="unit") as run,
            joined(host, path),
        ):
            run.wait_connected("g", "u")
            await _everything(guest, host, "tun1")
            assert "runt" not in run.port("u").rx.drops
        await guest.check("sysctl -w net.ipv6.conf.all.disable_ipv6=1")  # nothing else to say
        with vbackend_run(tmp_path, port, f"unit:{path},name=u,queue=16,{UNIT}", name="slow") as run:
            run.wait_connected("g")
            await _datagrams_to_a_slow_reader(guest, run, path)


@contextmanager
def joined(host: Namespace, path: str) -> Iterator[None]:
    """The unit at `path` is the device tun1 of the namespace."""
    command = host.command(sys.executable, "-I", splice.__file__, path, "tun1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "joined\n"
            for here, there in ((HOST, GUEST), (HOST6, GUEST6)):
                host.ip(
                    "address", "add", here, "peer", there, "dev", "tun1", *(["nodad"] if ":" in here else [])
                )
            host.ip("link", "set", "tun1", "up")
            host.ip("-6", "route", "replace", GUEST6, "dev", "tun1")
            yield
        finally:
            child.kill()


async def _everything(guest: Guest, host: Namespace, ifname: str) -> None:
    for address in (HOST, HOST6):
        await guest.wait_ping(address)
        result = await guest.ping(address)
        assert (result.received, result.duplicates) == (3, 0), f"{address}: {result}"
        result = await guest.ping(address, size=1500 - (48 if ":" in address else 28), df=True)
        assert result.received == 3, f"{address}, full size: {result}"
    for address in (GUEST, GUEST6):
        await asyncio.to_thread(ping, host, address, size=1500)
    await _link_local(guest, host, ifname)
    for address in (HOST, HOST6):
        await _tcp(guest, host, address)


async def _link_local(guest: Guest, host: Namespace, ifname: str) -> None:
    card = await guest.interface(mac(2))
    (link,) = json.loads(host.ip("-json", "address", "show", "dev", ifname))
    (ours,) = [entry["local"] for entry in link["addr_info"] if entry["scope"] == "link"]
    theirs = re.findall(r"inet6 (fe80::\S+)/64", await guest.check(f"ip -6 addr show dev {card}"))[0]
    result = await guest.ping(f"{ours}%{card}")
    assert result.received == 3, f"{ours}: {result}"
    await asyncio.to_thread(ping, host, f"{theirs}%{ifname}", size=100)


async def _tcp(guest: Guest, host: Namespace, address: str) -> None:
    """Both ways, the hashes compared."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    said = await guest.check(f"head -c {BULK} /dev/urandom >/tmp/bulk && sha256sum /tmp/bulk")
    with socket_in(host, family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen(1)
        number = listener.getsockname()[1]
        sending = asyncio.create_task(guest.check(f"nc {address} {number} </tmp/bulk"))
        data = await asyncio.to_thread(_receive, listener)
        await sending
        assert hashlib.sha256(data).hexdigest() == said.split()[0]
        back = bytes(reversed(data))
        receiving = asyncio.create_task(guest.check(f"nc {address} {number} </dev/null | sha256sum"))
        await asyncio.to_thread(_send, listener, back)
        assert (await receiving).split()[0] == hashlib.sha256(back).hexdigest()


def _receive(listener: socket.socket) -> bytes:
    """All that the next connection sends, up to what it is to send."""
    sock, _ = listener.accept()
    data = b""
    with sock:
        sock.settimeout(20)
        while len(data) < BULK and (more := sock.recv(1 << 16)):
            data += more
    return data


def _send(listener: socket.socket, data: bytes) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.settimeout(20)
        sock.sendall(data)


async def _datagrams_to_a_slow_reader(guest: Guest, run: Run, path: str) -> None:
    """T4, T5: every datagram was read or counted, those that were read in order, none twice."""
    await guest.agent.start(f"syslogd -n -R {HOST}:9")  # what is logged goes out in a datagram each
    await guest.wait_until("test -S /dev/log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as program:
        program.connect(path)
        program.settimeout(10)
        run.wait_connected("u")
        before = _queued_and_lost(run)
        await guest.agent.start(f"seq {DATAGRAMS} | logger")
        packets: list[bytes] = []
        queued = lost = 0
        deadline = asyncio.get_running_loop().time() + 60
        while queued + lost < DATAGRAMS:
            assert asyncio.get_running_loop().time() < deadline, f"{queued} queued, {lost} lost"
            queued, lost = (now - then for now, then in zip(_queued_and_lost(run), before, strict=True))
            if lost > 0:
                packets += await asyncio.to_thread(_read, program, 5)
        packets += await asyncio.to_thread(_read, program, before[0] + queued - len(packets))
        program.setblocking(False)
        with pytest.raises(BlockingIOError):
            program.recv(2000)
    assert queued + lost == DATAGRAMS
    numbers = [int(packet[28:].split()[-1]) for packet in packets if packet[9] == socket.IPPROTO_UDP]
    assert len(numbers) == queued
    assert numbers == sorted(set(numbers))
    assert 0 < lost < DATAGRAMS


def _read(program: socket.socket, count: int) -> list[bytes]:
    return [program.recv(2000) for _ in range(count)]


def _queued_and_lost(run: Run) -> tuple[int, int]:
    """By the unit's counters: opackets, drops."""
    unit = run.port("u").unit
    assert unit is not None
    assert unit.counters["drops"] == unit.counters["collisions"]
    return unit.counters["opackets"], unit.counters["drops"]
