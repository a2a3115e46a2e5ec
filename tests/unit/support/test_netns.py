import subprocess

import pytest

from tests.support.netns import Namespace, differences, namespace, namespaces_of_threads, netns

__all__ = ["netns"]

pytestmark = pytest.mark.root


def listed() -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines()}


def test_is_there_inside_and_gone_outside() -> None:
    with namespace() as ns:
        assert ns.name in listed()
        assert set(ns.links()) == {"lo"}
        assert "UP" in ns.links()["lo"]["flags"]
    assert ns.name not in listed()


def test_gone_after_a_failure_with_what_ran_in_it() -> None:
    started: list[tuple[Namespace, subprocess.Popen[bytes]]] = []

    def fail() -> None:
        with namespace() as ns:
            child = subprocess.Popen(
                ns.command("sh", "-c", "echo inside; exec sleep 60"), stdout=subprocess.PIPE
            )
            started.append((ns, child))
            assert child.stdout is not None
            with child.stdout as words:
                assert words.readline() == b"inside\n"
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    ((ns, child),) = started
    assert ns.name not in listed()
    assert child.wait(10) == -9


@pytest.mark.parametrize(
    "change",
    [
        ("link", "add", "br0", "type", "bridge"),
        ("address", "add", "10.9.8.7/32", "dev", "lo"),
        ("link", "set", "lo", "mtu", "9000"),
        ("-4", "route", "add", "blackhole", "10.0.0.0/8"),
        ("-6", "route", "add", "blackhole", "fd00::/8"),
        ("rule", "add", "pref", "7", "table", "7"),
        ("tuntap", "add", "dev", "t0", "mode", "tap"),
    ],
    ids=" ".join,
)
def test_state_sees_changes(netns: Namespace, change: tuple[str, ...]) -> None:
    before = netns.state()
    assert netns.state() == before
    netns.ip(*change)
    assert netns.state() != before


def test_state_sees_rules_of_nftables(netns: Namespace) -> None:
    before = netns.state()
    netns.run("nft", "add", "table", "ip", "some")
    assert netns.state() != before


def test_addresses(netns: Namespace) -> None:
    netns.ip("tuntap", "add", "dev", "t0", "mode", "tun")
    netns.ip("address", "add", "10.0.0.1", "peer", "10.0.0.2/32", "dev", "t0")
    netns.ip("address", "add", "fd00::1/64", "dev", "t0")
    assert netns.addresses("t0") == {"10.0.0.1 peer 10.0.0.2/32", "fd00::1/64"}


def test_a_command_that_fails_says_so(netns: Namespace) -> None:
    assert netns.run("cat", "/proc/sys/net/ipv4/ip_forward").strip() in ("0", "1")
    with pytest.raises(AssertionError, match="no-such-device"):
        netns.run("ip", "link", "show", "no-such-device")


def test_differences_are_named() -> None:
    before = {"a": [{"b": 1}, 2], "c": 3}
    assert differences(before, {"a": [{"b": 1}, 2], "c": 3}) == []
    after = {"a": [{"b": 7}, 2], "d": [1]}
    assert differences(before, after) == ["/a[0]/b: 1 became 7", "/c: 3 became None", "/d: None became [1]"]
    assert differences([1], [1, 2]) == [": [1] became [1, 2]"]


def test_all_threads_are_here() -> None:
    assert len(namespaces_of_threads()) == 1
