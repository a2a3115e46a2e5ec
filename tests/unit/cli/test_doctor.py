"""`vbackend doctor` on this host, whatever it can do."""

import pytest

from tests.unit.cli.harness import vbackend


def test_status_says_whether_something_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = vbackend(capsys, "doctor")
    assert outcome.err == ""
    header, *rows = outcome.out.splitlines()
    assert header.split() == ["what", "found", "remedy"]
    assert any(row.startswith("ok ") for row in rows)
    for name in ("engine", "QEMU", "KVM", "/dev/net/tun", "libpcap"):
        assert any(name in row for row in rows), f"{name} is looked at"
    assert outcome.status in (0, 1)
    assert outcome.status == 0 or any(row.startswith("no ") for row in rows)
