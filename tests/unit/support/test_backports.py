import pytest

from tests.support.backports import archive_site, codename
from vbackend.errors import HostError


def test_codename() -> None:
    assert codename('PRETTY_NAME="Debian 12"\nVERSION_CODENAME=bookworm\nID=debian\n') == "bookworm"
    for text in ("ID=ubuntu\nVERSION_CODENAME=noble\n", "ID=debian\n", ""):
        with pytest.raises(HostError, match="not a release of Debian"):
            codename(text)


def test_site() -> None:
    targets = "http://security/debian bookworm-security\nhttp://mirror/debian bookworm\n"
    assert archive_site(targets, "bookworm") == "http://mirror/debian"
    with pytest.raises(HostError, match="no source for Debian trixie"):
        archive_site(targets, "trixie")
