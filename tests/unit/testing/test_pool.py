"""vbackend/testing/pool.py: labs that wait, and the end of all, also of those whose pytest was killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.unit.testing.conftest import LAB
from vbackend.control.place import lab_names
from vbackend.errors import VbackendError
from vbackend.lab.client import is_served
from vbackend.testing.pool import LabPool


@pytest.fixture
def tmp() -> Iterator[Path]:
    """Short, since sockets lie below it."""
    with TemporaryDirectory(prefix="vbt-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def pool(tmp: Path) -> Iterator[LabPool]:
    made = LabPool("gw1", keep=1, tmp=tmp)
    yield made
    made.close()
    assert list(tmp.iterdir()) == []


def test_every_lab_is_another(pool: LabPool, tmp_path: Path) -> None:
    labs = [pool.start(LAB, base=tmp_path, folder=tmp_path) for _ in range(2)]
    assert [lab.name for lab in labs] == ["lab-gw1-1", "lab-gw1-2"]
    labs[0].down()
    assert not is_served("lab-gw1-1", pool.environ)
    assert is_served("lab-gw1-2", pool.environ)


def test_what_is_given_back_is_borrowed_again(pool: LabPool, tmp_path: Path) -> None:
    first = pool.borrow(LAB, base=tmp_path, folder=tmp_path)
    guest = first.fake_guest("a")
    pool.give_back(first)
    with pytest.raises(ConnectionError):
        guest.recv()
    again = pool.borrow(LAB, base=tmp_path, folder=tmp_path)
    assert again is first
    other = pool.borrow(LAB, base=tmp_path, folder=tmp_path)
    assert other is not first
    smaller = LAB[: LAB.index("[switch")]
    pool.give_back(pool.borrow(smaller, base=tmp_path, folder=tmp_path))
    pool.give_back(other)
    assert lab_names(pool.environ) == [first.name, other.name]  # one of two idle ones was too many


def test_of_equal_labs_no_more_wait_than_may(pool: LabPool, tmp_path: Path) -> None:
    labs = [pool.borrow(LAB, base=tmp_path, folder=tmp_path) for _ in range(2)]
    for lab in labs:
        pool.give_back(lab)
    assert lab_names(pool.environ) == [labs[1].name]
    assert pool.borrow(LAB, base=tmp_path, folder=tmp_path) is labs[1]


def test_a_lab_that_cannot_be_as_new_is_replaced(pool: LabPool, tmp_path: Path) -> None:
    first = pool.borrow(LAB, base=tmp_path, folder=tmp_path)
    pool.give_back(first)
    os.kill(first.control.status().pid, signal.SIGKILL)
    again = pool.borrow(LAB, base=tmp_path, folder=tmp_path)
    again.fake_guest("a")
    again.let_go()


def test_a_lab_that_cannot_be_started_leaves_nothing(pool: LabPool, tmp_path: Path) -> None:
    with pytest.raises(VbackendError, match="there is no image recipe 'nonsense'"):
        pool.start("[vm.a]\nimage = 'nonsense'", base=tmp_path, folder=tmp_path)
    assert lab_names(pool.environ) == []


def test_a_killed_process_is_swept_up_by_the_next(tmp: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vbackend.testing.pool import LabPool; "
        "tmp = Path(sys.argv[1]); pool = LabPool(tmp=tmp); "
        f"pool.start({LAB!r}, base=tmp, folder=tmp); print(pool.runtime, flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        left = Path(child.stdout.readline().strip())
        LabPool(tmp=tmp).close()  # it lives, so this does not touch it
        environ = {"XDG_RUNTIME_DIR": str(left)}
        assert is_served("lab-1", environ)
        child.kill()
    LabPool(tmp=tmp).close()
    assert not is_served("lab-1", environ)
    assert list(tmp.iterdir()) == []
