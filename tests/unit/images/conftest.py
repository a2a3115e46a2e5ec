import shutil
from pathlib import Path

import pytest

from tests.unit.images.repository import Repository


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """An archive of our own, the only one apt knows in this test; the system's lists are still empty."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("needs apt-get and dpkg-deb: guest images are built on Debian")
    (tmp_path / "repository").mkdir()
    made = Repository(tmp_path / "repository")
    monkeypatch.setenv("APT_CONFIG", str(made.configuration))
    return made
