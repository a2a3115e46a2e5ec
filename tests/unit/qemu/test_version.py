import re
import stat
from pathlib import Path

import pytest

from vbackend.errors import HostError
from vbackend.qemu.version import QEMU, QemuVersion, Reconnect, parse_version, qemu_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022", (7, 2, 22)),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2~bpo12+1)", (10, 0, 2)),
        ("QEMU emulator version 9.1.90 (v9.2.0-rc0)", (9, 1, 90)),
        ("QEMU emulator version 6.2", (6, 2, 0)),
        ("a warning first\nQEMU emulator version 8.0.0\n", (8, 0, 0)),
    ],
)
def test_parse(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == QemuVersion(*version)
    assert str(parse_version(text)) == ".".join(map(str, version))


@pytest.mark.parametrize("text", ["", "bash 5.2", "qemu-img version 7.2.22", "QEMU emulator version seven"])
def test_parse_something_else(text: str) -> None:
    with pytest.raises(ValueError, match="no QEMU version in"):
        parse_version(text)


@pytest.mark.parametrize(
    ("version", "has_stream", "reconnect"),
    [
        ((6, 2, 0), False, Reconnect.NEVER),
        ((7, 1, 0), False, Reconnect.NEVER),
        ((7, 2, 0), True, Reconnect.NEVER),
        ((7, 2, 22), True, Reconnect.NEVER),
        ((8, 0, 0), True, Reconnect.SECONDS),
        ((9, 1, 3), True, Reconnect.SECONDS),
        ((9, 2, 0), True, Reconnect.MILLISECONDS),
        ((10, 2, 0), True, Reconnect.MILLISECONDS),
    ],
)
def test_what_versions_can(version: tuple[int, int, int], has_stream: bool, reconnect: Reconnect) -> None:
    found = QemuVersion(*version)
    assert (found.has_stream, found.reconnect) == (has_stream, reconnect)


@pytest.mark.parametrize(
    ("version", "reconnect", "needs_intx"),
    [
        ((6, 2, 0), Reconnect.SECONDS, True),
        ((7, 2, 22), Reconnect.SECONDS, True),
        ((9, 1, 3), Reconnect.SECONDS, True),
        ((9, 2, 0), Reconnect.MILLISECONDS, True),
        ((10, 0, 2), Reconnect.MILLISECONDS, False),
    ],
)
def test_vhost_user(version: tuple[int, int, int], reconnect: Reconnect, needs_intx: bool) -> None:
    found = QemuVersion(*version)
    assert (found.chardev_reconnect, found.vhost_user_needs_intx) == (reconnect, needs_intx)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ((7, 0, 0), "7.0.0: too old for stream: and dgram: ports"),
        ((7, 2, 22), "7.2.22: does not connect again by itself; use 'dial' ports"),
        ((8, 0, 0), r"8.0.0: connects again by itself \(reconnect=\)"),
        ((10, 0, 2), r"10.0.2: connects again by itself \(reconnect-ms=\)"),
    ],
)
def test_described(version: tuple[int, int, int], words: str) -> None:
    assert re.match(words, QemuVersion(*version).described())


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_asks_a_binary(tmp_path: Path) -> None:
    binary = program(tmp_path / "qemu", '[ "$1" = --version ] && echo "QEMU emulator version 8.1.2"')
    assert qemu_version(binary) == QemuVersion(8, 1, 2)


def test_no_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match=r"no program 'no-such-qemu'; install it \(Debian: qemu-system-x86\)"):
        qemu_version("no-such-qemu")
    with pytest.raises(HostError, match=r"no QEMU version in 'hello.*give the path of a qemu-system"):
        qemu_version(program(tmp_path / "other", "echo hello"))
    (tmp_path / "broken").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(HostError, match="No such file or directory; give the path"):
        qemu_version(str(tmp_path / "broken"))
    monkeypatch.setattr("vbackend.qemu.version._PATIENCE_S", 0.05)
    with pytest.raises(HostError, match="it did not end within"):
        qemu_version(program(tmp_path / "slow", "exec sleep 60"))


@pytest.mark.guest
def test_the_installed_one() -> None:
    assert qemu_version(QEMU) >= QemuVersion(5, 0)
