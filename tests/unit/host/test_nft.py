from pathlib import Path

import pytest

from tests.support.netns import Namespace, netns
from vbackend.errors import HostError
from vbackend.host import nft
from vbackend.host.netns import run_in_namespace

__all__ = ["netns"]


@pytest.mark.root
def test_all_or_nothing(netns: Namespace) -> None:
    def work() -> None:
        assert nft.tables() == []
        nft.apply("make one", "add table inet one\nadd table ip other\n")
        with pytest.raises(
            HostError, match=r"cannot make two: nft: .*; see whether the kernel has nf_tables"
        ) as raised:
            nft.apply("make two", "add table inet two\nadd chain inet none c\n")
        assert "\n" not in str(raised.value)
        assert nft.tables() == ["one"]

    run_in_namespace(netns.name, work)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "cannot list the tables of nftables: there is no nft; apt install nftables"),
        (
            "echo 'Operation not permitted (you must be root)' >&2; exit 1",
            "it needs CAP_NET_ADMIN: run as root",
        ),
        ("exit 5", "nft: it ended with status 5"),
        ("exec sleep 60", "timed out"),
    ],
)
def test_a_program_that_does_not_do_it(
    script: str | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(nft, "ROOT_PATHS", "")
    monkeypatch.setattr(nft, "_PATIENCE_S", 0.2 if script and "sleep" in script else 20.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    if script:
        program = tmp_path / "nft"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    with pytest.raises(HostError, match=message):
        nft.tables()
