import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fds import open_fds
from vbackend.host.keeper import Keeper, main

pytestmark = pytest.mark.usefixtures("no_garbage")


class Asking:
    """The other end."""

    def __init__(self) -> None:
        self.wire, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.wire.settimeout(20)
        self.thread = threading.Thread(target=main, args=(str(theirs.detach()),))
        self.thread.start()

    def tell(self, message: dict[str, Any]) -> None:
        self.wire.send(json.dumps(message).encode())

    def hear(self) -> dict[str, Any]:
        told = json.loads(self.wire.recv(65536))
        assert isinstance(told, dict)
        return told

    def leave(self) -> None:
        self.wire.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture
def asking() -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.leave()


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_helper_from_its_start_to_its_end(asking: Asking) -> None:
    for status in (0, 3):
        asking.tell({"run": ["sh", "-c", f"echo a; echo b >&2; exit {status}"]})
        assert asking.hear().keys() == {"pid"}
        assert asking.hear() == {"ended": status, "said": "a\nb\n"}


def test_only_the_last_words_are_kept(asking: Asking) -> None:
    asking.tell({"run": ["sh", "-c", "yes first | head -5000; echo last"]})
    asking.hear()
    said = asking.hear()["said"]
    assert len(said) == 2000
    assert said.endswith("last\n")


def test_one_at_a_time_and_ended_when_asked(asking: Asking) -> None:
    asking.tell({"stop": True})
    asking.tell({"run": ["sleep", "60"]})
    assert is_there(asking.hear()["pid"])
    asking.tell({"run": ["true"]})
    assert asking.hear() == {"error": "another helper runs"}
    asking.tell({"stop": True})
    assert asking.hear() == {"ended": -15, "said": ""}


def test_what_cannot_be_run(asking: Asking) -> None:
    asking.tell({"run": ["/no/such/program"]})
    assert asking.hear() == {"error": "/no/such/program: No such file or directory"}


def test_who_does_not_want_to_end_is_killed(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbackend.host.keeper._PATIENCE_S", 0.1)
    asking.tell({"run": ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]})
    pid = asking.hear()["pid"]
    deadline = time.monotonic() + 20
    ignored = 1 << 14
    while not any(
        line.startswith("SigIgn") and int(line.split()[1], 16) & ignored
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    asking.tell({"stop": True})
    assert asking.hear() == {"ended": -9, "said": "deaf\n"}


def test_the_helper_goes_with_whom_it_is_for() -> None:
    asking = Asking()
    asking.tell({"run": ["sleep", "60"]})
    pid = asking.hear()["pid"]
    asking.leave()
    assert not is_there(pid)


def test_nothing_is_left_open() -> None:
    before = len(open_fds())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.send(json.dumps({"run": ["true"]}).encode())
    with theirs:
        thread = threading.Thread(target=Keeper(theirs).serve)
        thread.start()
        ours.recv(65536)
        ours.recv(65536)
        ours.close()
        thread.join(20)
    assert len(open_fds()) == before
