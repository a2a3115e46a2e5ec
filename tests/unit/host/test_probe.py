"""The judgement as a table; the looking on this host, whatever it can do."""

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from vbackend.errors import HostError
from vbackend.host import probe
from vbackend.host.probe import Finding, Sights, findings, judge, look

GOOD = Sights(
    tun="",
    net_admin=True,
    namespaces="",
    user_namespaces="",
    nft="nftables v1.0.6 (Lester Gooch #5)",
    slirp4netns="slirp4netns version 1.2.0",
    max_dgram_qlen=512,
    rmem_max=4 << 20,
    wmem_max=4 << 20,
    qemu="10.0.2: connects again by itself",
    kvm=(True, "a guest boots on kvm"),
    engine={"profile": "release", "version": "0.1.0"},
    libpcap="libpcap version 1.10.3",
)


def lacks(seen: Sights) -> list[Finding]:
    return [finding for finding in judge(seen) if not finding.ok]


def test_a_host_that_lacks_nothing() -> None:
    found = judge(GOOD)
    assert all(finding.ok and finding.found for finding in found)
    assert [finding.name for finding in found] == [
        "engine",
        "QEMU",
        "KVM",
        "/dev/net/tun",
        "CAP_NET_ADMIN",
        "network namespaces",
        "user namespaces",
        "nftables",
        "slirp4netns",
        "libpcap",
        "net.unix.max_dgram_qlen",
        "net.core.rmem_max",
        "net.core.wmem_max",
    ]


@pytest.mark.parametrize(
    ("change", "name", "found", "remedy", "essential"),
    [
        ({"tun": "Permission denied"}, "/dev/net/tun", "Permission denied", "chmod 0666 /dev/net/tun", False),
        ({"tun": "No such file or directory"}, "/dev/net/tun", "No such file", "modprobe tun", False),
        ({"net_admin": False}, "CAP_NET_ADMIN", "no device can be made", "ip tuntap add dev NAME", False),
        ({"namespaces": "unshare failed"}, "network namespaces", "unshare failed", "CAP_SYS_ADMIN", False),
        ({"user_namespaces": "denied"}, "user namespaces", "denied", "sysctl kernel.unpriv", False),
        ({"libpcap": None, "libpcap_lacks": "none"}, "libpcap", "none", "apt install libpcap0.8", False),
        ({"nft": None}, "nftables", "there is no nft", "apt install nftables", False),
        (
            {"slirp4netns": None},
            "slirp4netns",
            "there is none: without root",
            "apt install slirp4netns",
            False,
        ),
        (
            {"max_dgram_qlen": 10},
            "net.unix.max_dgram_qlen",
            "10",
            "sysctl net.unix.max_dgram_qlen=128",
            False,
        ),
        ({"rmem_max": 212_992}, "net.core.rmem_max", "212992", "sysctl net.core.rmem_max=1048576", False),
        ({"wmem_max": 212_992}, "net.core.wmem_max", "212992", "sysctl net.core.wmem_max=1048576", False),
        ({"qemu": None, "qemu_lacks": "none here"}, "QEMU", "none here", "apt install qemu-system-x86", True),
        ({"kvm": (False, "hangs")}, "KVM", "hangs", "under TCG", False),
        ({"engine": {"profile": "dev", "version": "1"}}, "engine", "built for dev", "tools/dev build", False),
        ({"engine": {}}, "engine", "built for unknown", "tools/dev build", False),
    ],
)
def test_each_lack_has_its_remedy(
    change: Mapping[str, object], name: str, found: str, remedy: str, essential: bool
) -> None:
    (lack,) = lacks(replace(GOOD, **change))  # type: ignore[arg-type]
    assert (lack.name, lack.essential) == (name, essential)
    assert found in lack.found
    assert remedy in lack.remedy


def test_what_was_not_asked_is_left_out() -> None:
    names = {finding.name for finding in judge(replace(GOOD, qemu=None, kvm=None, engine=None))}
    assert not names & {"QEMU", "KVM", "engine"}
    (unknown,) = [f for f in judge(replace(GOOD, rmem_max=None)) if f.name == "net.core.rmem_max"]
    assert (unknown.ok, unknown.found) == (True, "not to be seen from here")


def test_looking_at_this_host_answers_everything() -> None:
    def no_qemu() -> str:
        raise HostError("there is no QEMU")

    found = findings(
        qemu=no_qemu, kvm=lambda: (False, "not tried"), engine=lambda: {"profile": "release", "version": "1"}
    )
    assert len(found) == 12
    assert {f.name: f.found for f in found}["QEMU"] == "there is no QEMU"
    assert all(finding.found and "\n" not in finding.found for finding in found)
    assert all(finding.remedy for finding in found if not finding.ok)


@pytest.mark.root
def test_as_root_the_devices_are_there() -> None:
    seen = look(qemu=lambda: "7.2.22")
    assert (seen.tun, seen.net_admin, seen.namespaces, seen.qemu) == ("", True, "", "7.2.22")


def test_programs_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def program(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)

    program("unshare", "echo one >&2; echo 'unshare: not here' >&2; exit 1")
    program("nft", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    seen = look()
    assert (seen.namespaces, seen.user_namespaces, seen.nft) == (
        "unshare: not here",
        "unshare: not here",
        None,
    )
    program("unshare", "exit 3")
    assert look().namespaces == "unshare ended with status 3"
    monkeypatch.setattr(probe, "_PATIENCE_S", 0.05)
    program("unshare", "exec sleep 60")
    assert "timed out" in look().namespaces
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert look().namespaces == "there is no unshare: install util-linux"
