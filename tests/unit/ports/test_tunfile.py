"""A unit for a program in this process: `Backend.open_tun`."""

import asyncio
import errno
from collections.abc import AsyncIterator
from ipaddress import ip_interface

import pytest

from tests.support.accounting import assert_accounts
from tests.support.frames import mac
from tests.support.qemu_peers import DEADLINE_S, eventually
from tests.support.unit_peers import GuestStation, packet
from vbackend.backend import Backend
from vbackend.errors import ConfigError
from vbackend.ports.unitport import stable_mac
from vbackend.snapshot import PortSnapshot
from vbackend.tun.driver import TunDriver
from vbackend.tun.file import TunFile
from vbackend.tun.headers import decode, encode

HERE, THERE = "10.7.0.1", "10.7.0.2"


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with Backend(name="test") as found:
        await found.start([])
        yield found
        assert_accounts(found.snapshot())


async def open_tun(backend: Backend, **options: object) -> TunFile:
    ends = {"addresses": [ip_interface(HERE)], "peers": [ip_interface(THERE)]}
    return await backend.open_tun("tun", **{**ends, **options})  # type: ignore[arg-type]


async def station(backend: Backend) -> GuestStation:
    found = GuestStation(await backend.open_channel("guest"), mac(2), THERE, stable_mac("tunfile tun"))
    await found.announce()
    return found


def port(backend: Backend) -> PortSnapshot:
    return backend.snapshot().ports[0]


async def test_packets_both_ways(backend: Backend) -> None:
    with await open_tun(backend, header="loop") as file:
        guest = await station(backend)
        assert (port(backend).kind, port(backend).state) == ("tunfile", "connected")
        for number in range(10):
            up, down = (packet(*ends, b"%d" % number) for ends in ((THERE, HERE), (HERE, THERE)))
            await guest.send(up)
            got = await asyncio.wait_for(file.aread(), DEADLINE_S)
            assert decode("loop", got).payload == up
            assert file.write(encode("loop", down, family=4)) == len(down) + 4
            assert await guest.recv() == down
        await guest.send(up)
        assert await asyncio.wait_for(asyncio.to_thread(file.read), DEADLINE_S) == got
        counters = file._unit.native.view()
        assert (counters["ipackets"], counters["opackets"]) == (10, 11)


async def test_a_write_that_is_refused_is_an_error_here(backend: Backend) -> None:
    with await open_tun(backend) as file:
        with pytest.raises(OSError, match=r".") as caught:
            file.write(b"\x50" * 20)
        assert caught.value.errno == errno.EAFNOSUPPORT
        file.write(bytes([0x45]) + bytes(19))  # an IPv4 packet as far as the driver looks
        await eventually(lambda: port(backend).rx.drops == {"bad-ip": 1}, "no packet for a guest")


async def test_closing_the_file_ends_the_session(backend: Backend) -> None:
    file = await open_tun(backend)
    guest = await station(backend)
    await asyncio.to_thread(file.close)
    await eventually(lambda: port(backend).session is None, "the session ends")
    found = port(backend)
    assert (found.state, found.detail, found.last_end) == (
        "down",
        "its file was closed",
        "its file was closed",
    )
    assert await guest.resolve(HERE) == guest.unit.hex(":")
    await guest.send(packet(THERE, HERE))
    await eventually(lambda: port(backend).tx.drops == {"not-ready": 1}, "nobody has it open")


async def test_removing_the_port_destroys_the_unit(backend: Backend) -> None:
    file = await open_tun(backend)
    readers = asyncio.create_task(file.aread()), asyncio.create_task(asyncio.to_thread(file.read))
    await eventually(lambda: "RWAIT" in (unit.flags if (unit := port(backend).unit) else ()), "one sleeps")
    await backend.remove_port("tun")
    for reader in readers:
        with pytest.raises(OSError, match=r".") as caught:
            await asyncio.wait_for(reader, DEADLINE_S)
        assert caught.value.errno == errno.ENXIO
    for use in (file.read_batch, lambda: file.write(packet(HERE, THERE)), lambda: file.ioctl("FIONREAD")):
        with pytest.raises(OSError, match=r".") as caught:
            use()
        assert caught.value.errno == errno.ENXIO
    driver = file._driver
    assert isinstance(driver, TunDriver)
    assert driver.zombies() == (0,)
    file.close()
    assert driver.zombies() == ()


async def test_stopping_the_backend_closes_its_files(backend: Backend) -> None:
    file = await open_tun(backend)
    reader = asyncio.create_task(file.aread())
    await asyncio.sleep(0)
    await backend.stop()
    with pytest.raises(OSError, match=r".") as caught:
        await asyncio.wait_for(reader, DEADLINE_S)
    assert caught.value.errno == errno.EBADF
    file.close()
    await backend.start([])


async def test_what_a_guest_sends_waits_in_if_snd(backend: Backend) -> None:
    with await open_tun(backend, queue=4) as file:
        guest = await station(backend)
        await guest.send(*[packet(THERE, HERE, b"%d" % number) for number in range(10)])
        await eventually(lambda: port(backend).tx.dropped == 6, "six find no room")
        unit = port(backend).unit
        assert unit is not None
        assert (unit.queue_len, unit.queue_limit, unit.counters["drops"]) == (4, 4, 6)
        assert [got[-1:] for got in file.read_batch()] == [b"0", b"1", b"2", b"3"]


async def test_a_name_is_taken_once(backend: Backend) -> None:
    with await open_tun(backend):
        with pytest.raises(ConfigError, match="tun"):
            await open_tun(backend)
        assert len(backend.snapshot().ports) == 1
