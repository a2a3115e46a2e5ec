"""READY on a descriptor and sd_notify, with real pipes and sockets."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vbackend.control.readiness import announce_ready, checked_ready_fd, notify
from vbackend.errors import ConfigError


def test_ready_line_then_end_of_file() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        os.set_inheritable(writer, True)
        assert checked_ready_fd(writer) == writer
        assert not os.get_inheritable(writer)
        announce_ready(writer, {})
        assert pipe.read() == b"READY\n"


def test_standard_output_stays_usable() -> None:
    code = (
        "from vbackend.control.readiness import announce_ready\nannounce_ready(1, {})\n"
        "print('not seen', flush=True)\nimport os; assert os.open('/', os.O_RDONLY) > 2"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "READY\n", "")


def test_a_listener_that_left_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    announce_ready(writer, {"NOTIFY_SOCKET": "/nonexistent/socket"})
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def test_bad_descriptors() -> None:
    reader, writer = os.pipe()
    with (
        os.fdopen(reader),
        os.fdopen(writer),
        pytest.raises(ConfigError, match=f"--ready-fd {reader}: open for reading only"),
    ):
        checked_ready_fd(reader)
    for number in (reader, -1, 1 << 40):
        with pytest.raises(ConfigError, match="not an open file descriptor"):
            checked_ready_fd(number)


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, abstract: bool) -> None:
    place = f"@vbackend-notify-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(20)
        listener.bind(f"\0{place[1:]}" if abstract else place)
        announce_ready(None, {"NOTIFY_SOCKET": place})
        notify("STOPPING=1", {"NOTIFY_SOCKET": place})
        assert [listener.recv(100), listener.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_without_a_service_manager_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    announce_ready(None, {})
    notify("READY=1", {"NOTIFY_SOCKET": ""})
    assert caplog.records == []
