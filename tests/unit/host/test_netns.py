import asyncio
import threading
from pathlib import Path

import pytest

from tests.support.netns import Namespace, namespaces_of_threads, netns
from tests.support.qemu_peers import eventually
from vbackend.errors import HostError
from vbackend.host.netns import namespace_inode, namespace_path, run_in_namespace

__all__ = ["netns"]


def own_namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def test_without_a_name_it_is_a_plain_call() -> None:
    assert run_in_namespace(None, threading.get_ident) == threading.get_ident()
    assert namespace_inode(None) == own_namespace()


@pytest.mark.parametrize("name", ["", "vbtest-none", "../net", "a/b"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(HostError, match="make it with `ip netns add"):
        namespace_path(name)


@pytest.mark.root
async def test_the_work_is_inside_and_we_stay_outside(netns: Namespace) -> None:
    before = own_namespace()
    inside = await asyncio.to_thread(run_in_namespace, netns.name, own_namespace)
    assert inside == namespace_inode(netns.name) != before
    assert own_namespace() == before
    await eventually(lambda: namespaces_of_threads() == {before}, "the thread that was inside has ended")


@pytest.mark.root
def test_errors_come_out_as_they_are(netns: Namespace) -> None:
    def fail() -> None:
        raise ZeroDivisionError("of the work")

    with pytest.raises(ZeroDivisionError, match="of the work"):
        run_in_namespace(netns.name, fail)


@pytest.mark.root
def test_a_file_that_is_no_namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    monkeypatch.setattr("vbackend.host.netns._NAMESPACES", tmp_path)
    with pytest.raises(HostError, match=r"plain is not one; make it with `ip netns add`"):
        run_in_namespace("plain", own_namespace)
    assert namespace_inode("none") is None
