"""One message is one packet, in both directions, behind every link header of every system."""

import errno
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.conformance.unit_port.lab import HERE, HERE6, THERE, THERE6, unit_lab
from tests.support.frames import BROADCAST, frame, vlan_frame
from tests.support.qemu_peers import eventually
from tests.support.unit_peers import GuestStation, packet
from vbackend.tun.headers import decode, encode
from vbackend.tun.vocabulary import HEADERS, SYSTEMS, Header, IfAddr, IfFlag, Ioctl, System


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("header", HEADERS)
async def test_every_header(tmp_path: Path, header: Header, system: System) -> None:
    async with unit_lab(tmp_path, f"header={header},family={system}") as lab:
        guest, program = await lab.station(), await lab.program()
        six = GuestStation(guest.channel, guest.mac, THERE6, lab.mac)
        for version, here, there, station in ((4, HERE, THERE, guest), (6, HERE6, THERE6, six)):
            up = [packet(there, here, b"up %d" % number) for number in range(3)]
            await station.send(*up)
            for sent in up:
                got = decode(header, message := await program.recv(), system=system)
                assert (got.family, got.payload) == (version, sent)
                ether = (lab.mac, guest.mac)
                assert message == encode(header, sent, family=version, system=system, ether=ether)
            down = [packet(here, there, b"down %d" % number) for number in range(3)]
            await program.send(*(encode(header, each, family=version, system=system) for each in down))
            assert [await station.recv() for _ in down] == down
        unit, port = lab.unit, lab.port
        assert (unit.header, unit.family, unit.mtu) == (header, system, 1500)
        assert unit.counters["ipackets"] == unit.counters["opackets"] == 6
        assert port.rx.drops == {}
        assert port.tx.drops.keys() <= {"not-ready"}


async def test_what_is_written_before_the_unit_is_open_has_its_header_too(tmp_path: Path) -> None:
    """The engine may see a program's first message before the device face is open."""
    async with unit_lab(tmp_path, "header=loop") as lab:
        guest = await lab.station()
        for number in range(20):
            with await lab.client() as program:
                sent = packet(HERE, THERE, b"%d" % number)
                program.send_now(encode("loop", sent, family=4))
                assert await guest.recv() == sent
        assert lab.port.rx.drops == {}


async def test_the_largest_and_the_smallest(tmp_path: Path) -> None:
    async with unit_lab(tmp_path, "mtu=9000") as lab:
        guest, program = await lab.station(), await lab.program()
        for size in (0, 1, 1472, 8972):
            await guest.send(up := packet(THERE, HERE, bytes(size)))
            assert await program.recv() == up
            await program.send(down := packet(HERE, THERE, bytes(size)))
            assert await guest.recv() == down
        assert (lab.unit.mtu, lab.unit.tunmtu) == (9000, 9000)


async def test_padding_of_the_wire_never_reaches_the_program(tmp_path: Path) -> None:
    async with unit_lab(tmp_path) as lab:
        guest, program = await lab.station(), await lab.program()
        await guest.channel.send(guest.framed(up := packet(THERE, HERE)).ljust(60, b"\xff"))
        assert await program.recv() == up


async def test_nothing_but_good_ip_reaches_the_program(tmp_path: Path) -> None:
    """(frame, why it is dropped); each is followed by a good packet, which is the next that the program gets."""
    async with unit_lab(tmp_path) as lab:
        guest, program = await lab.station(), await lab.program()
        four, six = packet(THERE, HERE, b"payload"), packet(THERE6, HERE6, b"payload")
        table = [
            (guest.framed(four[:-1]), "bad-ip"),  # total length beyond the frame
            (guest.framed(bytes([0x4F]) + four[1:20]), "bad-ip"),  # header beyond the packet
            (guest.framed(bytes([0x44]) + four[1:]), "bad-ip"),  # header below 20 bytes
            (guest.framed(four[:2] + b"\0\x10" + four[4:]), "bad-ip"),  # total length below the header
            (guest.framed(six[:-1]), "bad-ip"),
            (guest.framed(six[:39]), "bad-ip"),
            (frame(lab.mac, guest.mac, four, ethertype=0x86DD), "bad-ip"),
            (frame(lab.mac, guest.mac, b"hello"), "not-ip"),
            (vlan_frame(BROADCAST, guest.mac, 7, four), "not-ip"),
        ]
        for bad, reason in table:
            before = lab.port.tx.drops.get(reason, 0), lab.unit.counters["oerrors"]
            await guest.channel.send(bad)
            await guest.send(four)
            assert await program.recv() == four
            await eventually(
                lambda reason=reason, count=before[0]: lab.port.tx.drops.get(reason, 0) == count + 1,  # type: ignore[misc]
                f"one more {reason}",
            )
            assert lab.unit.counters["oerrors"] == before[1] + (reason == "not-ip")
        assert lab.unit.counters["opackets"] == len(table)


async def test_several_guests_behind_one_unit(tmp_path: Path) -> None:
    """BROADCAST mode: each guest gets its packets, and none can take what another one has."""
    async with unit_lab(tmp_path, "mode=broadcast") as lab:
        first, second = await lab.station(2), await lab.station(3)
        program = await lab.program()
        assert (await first.resolve(HERE), await second.resolve(HERE)) == (lab.mac.hex(":"),) * 2
        for guest in (first, second):
            await lab.hears(guest, program)
        thief = GuestStation(second.channel, second.mac, first.address, lab.mac)
        await thief.announce()
        await thief.send(packet(first.address, HERE, b"me"))
        assert (await program.recv())[-2:] == b"me"
        await program.send(mine := packet(HERE, first.address, b"for the first"))
        assert await first.recv() == mine
        await program.send(own := packet(HERE, second.address, b"for the second"))
        assert await second.recv() == own
        assert lab.unit.mode == "broadcast"
        assert "DSTADDR" not in lab.unit.flags


async def test_on_a_broadcast_unit_all_are_reached_at_once(tmp_path: Path) -> None:
    async with unit_lab(tmp_path, "mode=broadcast") as lab:
        guests, program = [await lab.station(number) for number in (2, 3)], await lab.program()
        await program.send(packet(HERE, "255.255.255.255", b"all"))
        for guest in guests:
            while not (got := await guest.channel.recv() or b"").endswith(b"all"):
                pass
            assert got[:6] == BROADCAST


async def test_addresses_and_mode_of_the_interface_are_the_adapters(tmp_path: Path) -> None:
    """What SIOCSIFADDR and TUNSIFMODE change, guests see at once."""
    async with unit_lab(tmp_path) as lab:
        guest = await lab.station()
        program = await lab.program()
        # Point to point, the unit answers for every address that is not the guest's.
        assert await guest.resolve("192.0.2.1") == lab.mac.hex(":")
        driver, number = lab.interface.driver, lab.interface.number
        with pytest.raises(OSError, match="it is up") as caught:
            driver.ioctl(number, Ioctl.TUNSIFMODE, IfFlag.BROADCAST)
        assert caught.value.errno == errno.EBUSY
        program.close()
        await eventually(lambda: lab.port.session is None, "closed")
        driver.ioctl(number, Ioctl.TUNSIFMODE, IfFlag.BROADCAST)
        assert (lab.unit.mode, lab.unit.if_flags) == ("broadcast", ("BROADCAST", "RUNNING"))
        lab.interface.remove_address(lab.interface.addresses[0].local)
        lab.interface.add_address(IfAddr(IPv4Address("10.7.0.9"), broadcast=IPv4Address("10.7.0.255")))
        assert await guest.resolve("10.7.0.9") == lab.mac.hex(":")
        await lab.program()
        await guest.send(packet(THERE, "10.7.0.9", b"x"))
        assert "10.7.0.9 broadcast 10.7.0.255" in lab.unit.addresses
