"""Names that follow from names: for ever the same, never the same for two."""

import os
from pathlib import Path

import pytest

from vbackend.errors import ConfigError
from vbackend.lab.names import (
    VmPlace,
    gateway_mac,
    mac_address,
    mac_octets,
    port_socket,
    socket_path,
    station_mac,
    tap_mac,
)


def test_mac_addresses_stay_the_same() -> None:
    assert mac_address("two", "r1", "eth0") == "02:10:4a:66:21:a4"  # printf two/r1/eth0 | sha256sum
    assert mac_octets("02:10:4a:66:21:a4") == b"\x02\x10\x4a\x66\x21\xa4"


def test_mac_addresses_differ() -> None:
    names = [(lab, vm, nic) for lab in ("a", "b") for vm in ("a", "b") for nic in ("a", "b")]
    made = {mac_address(*each) for each in names}
    made |= {of("a", "a") for of in (gateway_mac, station_mac, tap_mac)}
    assert len(made) == len(names) + 3


def test_places() -> None:
    folder = Path("/run/vbackend/labs/two")
    place = VmPlace.of(folder, "r1")
    assert place.qmp == folder / "vm/r1/qmp.sock"
    assert {path.parent for path in (place.agent, place.console, place.pid, place.command)} == {place.folder}
    assert port_socket(folder, "r1:eth0") == folder / "port/r1:eth0.sock"


@pytest.mark.parametrize(("length", "fits"), [(107, True), (108, False)])
def test_a_socket_has_a_short_path(length: int, fits: bool) -> None:
    path = Path("/" + "é" * 50 + "x" * (length - 101))
    if fits:
        assert socket_path(path) == path
        return
    with pytest.raises(ConfigError, match="the path has 108 bytes, 107 fit; set XDG_RUNTIME_DIR"):
        socket_path(path)


def test_a_path_that_is_no_text() -> None:
    path = Path(os.fsdecode(b"/run/gr\xfcn/x.sock"))
    assert socket_path(path) == path


def test_a_deep_folder_is_told_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"qmp\.sock.*107 fit"):
        VmPlace.of(Path("/" + "d" * 100), "r1")
