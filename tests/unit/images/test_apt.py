from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.images.repository import Repository
from vbackend.errors import HostError
from vbackend.images.apt import Apt, AptError, Package, follow, parse_packages, unpack

SHOWN = """Package: tcpdump
Version: 4.99.3-1
Architecture: amd64
Pre-Depends: libzero
Depends: adduser, libc6 (>= 2.34), libpcap0.8 (>= 1.10.0) | libpcap1, libssl3:any
Description: command-line network traffic analyzer
 This program allows you to dump.
 .
 Depends: nothing in here
Filename: pool/main/t/tcpdump.deb

Package: installed-only
Version: 1

N: Can't select candidate version
"""


def test_stanzas() -> None:
    tcpdump, installed = parse_packages(SHOWN)
    assert tcpdump == Package(
        "tcpdump",
        "4.99.3-1",
        ("libzero", "adduser", "libc6", "libpcap0.8", "libssl3"),
        "pool/main/t/tcpdump.deb",
    )
    assert str(tcpdump) == "tcpdump=4.99.3-1"
    assert installed == Package("installed-only", "1", (), "")
    assert parse_packages("") == []


def package(name: str, *depends: str, filename: str = "f") -> Package:
    return Package(name, "1", depends, filename)


ARCHIVE = {
    each.name: each
    for each in (
        package("tool", "liba", "adduser", "libvirtual"),
        package("liba", "libb", "libc"),
        package("libb", "liba"),
        package("libc"),
        package("adduser", "libd"),
        package("libd"),
        package("old", filename=""),
    )
}


def show(names: Sequence[str]) -> list[Package]:
    return [ARCHIVE[name] for name in names if name in ARCHIVE]


def test_follows_wanted_dependencies_only() -> None:
    """In circles, past packages nobody knows, never through those that are not wanted."""
    found = follow(["tool", "tool"], lambda name: name.startswith("lib"), show)
    assert [each.name for each in found] == ["liba", "libb", "libc", "tool"]


def test_roots_must_be_there_to_download() -> None:
    with pytest.raises(AptError, match=r"named nothing, old: run `apt-get update`"):
        follow(["tool", "nothing", "old"], lambda _: False, show)


def test_without_debians_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"needs apt-cache.*build it on Debian"):
        Apt()


def test_private_lists(repository: Repository, tmp_path: Path) -> None:
    """Looked up, downloaded, gone, found again: all in a folder of our own, with the system's lists empty."""
    repository.add("tool", "1", {"usr/bin/tool": b"one"})
    system, private = Apt(), Apt(tmp_path / "private")
    assert system.show(["tool"]) == []
    assert not private.has_lists()
    with pytest.raises(ValueError, match="root's"):
        system.update()
    before = private.state()
    private.update()
    assert private.has_lists()
    assert private.state() != before
    (tool,) = private.show(["tool"])
    assert (tool.version, private.show(["unknown"])) == ("1", [])

    (deb,) = private.download([tool], tmp_path / "deb")
    assert deb.name == "tool_1_all.deb"
    unpack(deb, tmp_path)
    assert (tmp_path / "usr/bin/tool").read_bytes() == b"one"

    repository.add("tool", "2", {"usr/bin/tool": b"two"})
    (repository.archive / "tool_1_all.deb").unlink()
    with pytest.raises(AptError, match="apt-get download failed: E: "):
        private.download([tool], tmp_path / "gone")
    private.update()
    assert [str(each) for each in private.show(["tool"])] == ["tool=2"]


def test_update_says_what_apt_says(repository: Repository, tmp_path: Path) -> None:
    repository.archive.rmdir()
    with pytest.raises(AptError, match=r"apt-get update into .* failed: E: "):
        Apt(tmp_path / "private").update()


def test_unpack_keeps_links_to_folders(repository: Repository, tmp_path: Path) -> None:
    deb = repository.add("x", "1", {"lib/x.so": b"x"})
    (tmp_path / "root/usr/lib").mkdir(parents=True)
    (tmp_path / "root/lib").symlink_to("usr/lib")
    unpack(deb, tmp_path / "root")
    assert (tmp_path / "root/usr/lib/x.so").read_bytes() == b"x"


@pytest.mark.usefixtures("repository")
def test_unpack_refuses_what_is_no_package(tmp_path: Path) -> None:
    broken = tmp_path / "broken.deb"
    broken.write_bytes(b"no archive")
    with pytest.raises(HostError, match=r"cannot unpack broken.deb"):
        unpack(broken, tmp_path)


def test_unpack_does_not_wait_for_a_tar_that_failed(repository: Repository, tmp_path: Path) -> None:
    deb = repository.add("x", "1", {"x": bytes(1 << 20)})
    with pytest.raises(HostError, match=r"cannot unpack .*/no: .*No such file or directory"):
        unpack(deb, tmp_path / "no")
