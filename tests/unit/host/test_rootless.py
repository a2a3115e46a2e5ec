"""Refusals, and what the process is like inside. Taps and ways out of there are in tests/host/test_uplink.py."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.privileges import as_user
from vbackend.errors import HostError
from vbackend.host.rootless import join, main, own_namespace, remedy

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("code", "stand", "expected"),
    [
        (
            errno.EPERM,
            {"kernel/unprivileged_userns_clone": "0"},
            "`sysctl kernel.unprivileged_userns_clone=1`",
        ),
        (errno.ENOSPC, {"user/max_user_namespaces": "0"}, "`sysctl user.max_user_namespaces=15000`"),
        (errno.ENOSPC, {"user/max_net_namespaces": "0"}, "`sysctl user.max_net_namespaces=15000`"),
        (
            0,
            {"kernel/apparmor_restrict_unprivileged_userns": "1"},
            "apparmor_restrict_unprivileged_userns=0`",
        ),
        (errno.EINVAL, {}, "before there are threads"),
        (errno.ENOSPC, {"user/max_user_namespaces": "100"}, "there are too many"),
        (errno.EUSERS, {}, "there are too many"),
        (errno.EPERM, {"kernel/unprivileged_userns_clone": "1"}, "run as root, or if this is a container"),
    ],
)
def test_what_to_do(code: int, stand: dict[str, str], expected: str) -> None:
    assert expected in remedy(code, stand.get)


@pytest.mark.root
def test_root_stays_where_it_is() -> None:
    before = Path("/proc/self/ns/net").readlink()
    assert own_namespace() is None
    assert Path("/proc/self/ns/net").readlink() == before


def as_user_runs(script: str) -> list[str]:
    done = subprocess.run(
        [*as_user(4242), sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return (done.stdout + done.stderr).splitlines()


@pytest.mark.root
def test_inside() -> None:
    script = """
import os, socket
from vbackend.host.rootless import own_namespace
before = os.readlink("/proc/self/ns/net")
outside = own_namespace()
print(before != os.readlink("/proc/self/ns/net"), os.getuid(), os.geteuid(), os.getegid())
print([name for _, name in socket.if_nameindex()])
with socket.socket() as server, socket.socket() as client:
    server.bind(("127.0.0.1", 0))
    server.listen()
    client.connect(server.getsockname())
    print("loopback is up")
ours, theirs = socket.socketpair()
print(ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8] == (4242).to_bytes(4, "little"))
outside.close()
"""
    assert as_user_runs(script) == ["True 4242 4242 4242", "['lo']", "loopback is up", "True"]


@pytest.mark.root
def test_threads_are_too_late() -> None:
    script = """
import threading
from vbackend.errors import HostError
from vbackend.host.rootless import own_namespace
over = threading.Event()
threading.Thread(target=over.wait).start()
try:
    own_namespace()
except HostError as error:
    print(error)
over.set()
"""
    assert as_user_runs(script) == [
        "cannot make a user and network namespace: Invalid argument; it has to be done before there are threads"
    ]


@pytest.mark.root
def test_processes_whose_namespaces_are_not_ours_to_enter() -> None:
    with pytest.raises(HostError, match="cannot enter the namespaces of process 999999999: No such file"):
        join(999999999)
    script = """
from vbackend.errors import HostError
from vbackend.host.rootless import join
for pid in (1, "self"):
    try:
        join(pid)
    except HostError as error:
        print(error)
"""
    assert as_user_runs(script) == [
        "cannot enter the namespaces of process 1: Permission denied; give a process of a lab of this user",
        "cannot enter the namespaces of process self: Invalid argument; give a process of a lab of this user",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: python -m vbackend.host.rootless PID COMMAND"),
        (("7",), "usage: "),
        (("lab", "id"), "usage: "),
        (("999999999", "id"), "cannot enter the namespaces of process 999999999: No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_run(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(arguments)
