"""The twin of if_tun.c does what its comments say; the numbers are the rules' of the conformance suite."""

import errno

import pytest

from tests.support.if_tun import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    EVFILT_READ,
    EVFILT_WRITE,
    POLLIN_ANY,
    POLLOUT_ANY,
    TUN_IASET,
    TUN_INITED,
    TUN_OPEN,
    TUN_READY,
    Driver,
    Sockaddr,
    Softc,
    Uio,
)

SIN = Sockaddr(AF_INET, bytes([16, 2]) + bytes(14))
SIN6 = Sockaddr(AF_INET6, bytes([28, 24]) + bytes(26))


def ready(driver: Driver) -> Softc:
    assert driver.tunopen(0, suser=True) == 0
    tp = driver.tun_find_unit(0)
    assert tp is not None
    assert driver.in_control(tp, "SIOCSIFADDR", AF_INET, 0x0A070001) == 0
    assert tp.tun_flags & TUN_READY == TUN_READY
    return tp


def written(data: bytes) -> Uio:
    return Uio(len(data), data)


def test_zombie_is_revived_and_busy() -> None:
    driver = Driver()
    tp = ready(driver)
    driver.tun_clone_destroy(tp)
    assert tp.tun_flags == TUN_OPEN | TUN_IASET
    assert driver.tunread(0, Uio(9)) == driver.tunwrite(0, written(b"E")) == errno.ENXIO
    assert driver.tunpoll(0, POLLIN_ANY | POLLOUT_ANY) == 0
    assert driver.tunopen(0, suser=True) == errno.EBUSY
    assert driver.tun_softc_list == [tp]
    assert tp.tun_flags == TUN_OPEN | TUN_IASET | TUN_INITED
    assert tp.tun_if.if_index == 2
    driver.tun_clone_destroy(tp)
    assert driver.tunclose(0) == 0
    assert driver.tun_softc_list == driver.tunz_softc_list == []


def test_close_takes_the_interface_down_and_keeps_the_address() -> None:
    driver = Driver()
    tp = ready(driver)
    driver.tun_output(tp, b"E", SIN)
    driver.tunclose(0)
    assert driver.happened[-2:] == [("rtinit", 0x0A070001, False), ("selnotify",)]
    assert not tp.tun_if.if_snd.mbufs
    driver.tunopen(0, suser=True)
    assert tp.tun_flags & TUN_READY == TUN_READY


def test_output_until_the_queue_is_full() -> None:
    driver = Driver()
    tp = ready(driver)
    driver.tunioctl(0, "TUNSLMODE", [1])
    assert driver.tun_output(tp, b"E", SIN) == 0
    assert driver.tun_output(tp, b"`", SIN6) == 0
    assert driver.tun_output(tp, b"?", Sockaddr(AF_UNSPEC, b"x")) == 0
    assert driver.tun_output(tp, b"a", Sockaddr(7, b"x")) == errno.EAFNOSUPPORT
    assert tp.tun_if.if_snd.mbufs == [SIN.data + b"E", SIN6.data + b"`", b"?"]
    assert tp.tun_if.if_bpf == [(2, b"E"), (24, b"`"), (0, b"?"), (7, b"a")]
    while driver.tun_output(tp, b"E", SIN) == 0:
        pass
    assert (tp.tun_if.if_opackets, tp.tun_if.if_collisions, tp.tun_if.if_snd.ifq_drops) == (256, 1, 1)


def test_read_loses_what_does_not_fit_and_sleeps_on_empty() -> None:
    driver = Driver()
    tp = ready(driver)
    for packet in (b"first", b"second", b"third"):
        driver.tun_output(tp, packet, SIN)
    data = [0]
    driver.tunioctl(0, "FIONREAD", data)
    assert data == [5]
    got = [Uio(2), Uio(0), Uio(9)]
    assert [driver.tunread(0, uio) for uio in got] == [0, 0, 0]
    assert [uio.base for uio in got] == [b"fi", b"", b"third"]
    assert driver.tunread(0, Uio(9)) is None
    driver.tun_output(tp, b"E", SIN)
    assert ("wakeup",) in driver.happened
    driver.tunread(0, Uio(9))
    driver.tunioctl(0, "FIONBIO", [1])
    assert driver.tunread(0, Uio(9)) == errno.EWOULDBLOCK


@pytest.mark.parametrize(
    ("prepaddr", "data", "code", "ierrors"),
    [
        (0, b"E" + bytes(1499), 0, 0),
        (0, b"`", 0, 0),
        (0, b"E" + bytes(1500), errno.EIO, 0),
        (0, b"P", errno.EAFNOSUPPORT, 0),
        (0, b"P" + bytes(1500), errno.EIO, 0),
        (0, b"", errno.EIO, 1),
        (1, SIN.data[:15], errno.EIO, 0),
        (1, SIN.data, errno.EIO, 1),
        (1, bytes([16, 7]) + bytes(14), errno.EAFNOSUPPORT, 0),
        (1, bytes([16, 7]) + bytes(1600), errno.EIO, 0),
        (1, SIN6.data + b"`", 0, 0),
        (1, SIN6.data, errno.EIO, 1),
    ],
)
def test_write(prepaddr: int, data: bytes, code: int, ierrors: int) -> None:
    driver = Driver()
    tp = ready(driver)
    driver.tunioctl(0, "TUNSLMODE", [prepaddr])
    assert driver.tunwrite(0, written(data)) == code
    assert tp.tun_if.if_ierrors == ierrors
    assert tp.tun_if.if_ipackets == (code == 0) == len(driver.ipintrq.mbufs + driver.ip6intrq.mbufs)


def test_input_queues_are_full_each_on_its_own() -> None:
    driver = Driver()
    tp = ready(driver)
    while driver.tunwrite(0, written(b"E")) == 0:
        pass
    assert driver.tunwrite(0, written(b"E")) == errno.ENOBUFS
    assert driver.tunwrite(0, written(b"`")) == 0
    assert (driver.ipintrq.ifq_drops, tp.tun_if.if_collisions, tp.tun_if.if_ipackets) == (2, 2, 257)


def test_poll_and_kevent_tell_of_the_queue() -> None:
    driver = Driver()
    tp = ready(driver)
    assert driver.tunpoll(0, POLLIN_ANY | POLLOUT_ANY) == POLLOUT_ANY
    assert driver.tunkqfilter(0, EVFILT_READ) == (0, False, 0)
    driver.tun_output(tp, b"four", SIN)
    assert driver.tunpoll(0, POLLIN_ANY) == POLLIN_ANY
    assert driver.tunkqfilter(0, EVFILT_READ) == (0, True, 4)
    assert driver.tunkqfilter(0, EVFILT_WRITE) == (0, True, 0)
    assert driver.tunkqfilter(0, 9)[0] == 1
