"""`vbackend extcap` as Wireshark calls it: stdout has sentences or nothing."""

from pathlib import Path

import pytest

from tests.support.pcapng import parse
from tests.unit.cli.harness import one_line, served, vbackend

SETTING = "--extcap-interface", "vbackend-default"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "vbackend").mkdir()
    return f"{tmp_path}/vbackend/default.sock"


def test_questions(capsys: pytest.CaptureFixture[str], place: str) -> None:
    with served(place):
        for words, lines in (
            (
                ["--extcap-interfaces", "--extcap-version=4.4"],
                ["extcap {", "interface {value=vbackend-default}"],
            ),
            (["--extcap-version=4.4"], ["extcap {", "interface {value=vbackend-default}"]),
            (["--extcap-config", *SETTING], ["arg {number=0}{call=--snaplen}"]),
            (["--extcap-dlts", *SETTING, "--new-option", "value"], ["dlt {number=1}"]),
            ([*SETTING, "--extcap-capture-filter", "ip"], []),
            ([*SETTING, "--extcap-capture-filter", "host and"], ["filter 'host and': "]),
            ([*SETTING], []),
        ):
            outcome = vbackend(capsys, "extcap", *words)
            assert (outcome.status, outcome.err) == (0, "")
            found = outcome.out.splitlines()
            assert len(found) == len(lines)
            assert all(line.startswith(begin) for line, begin in zip(found, lines, strict=True)), found


def test_a_capture(capsys: pytest.CaptureFixture[str], place: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with served(place) as backend:
        backend.most = 2
        options = ("--extcap-capture-filter", "ip", "--snaplen", "96", "--fifo", str(file))
        outcome = vbackend(capsys, "extcap", "--capture", *SETTING, *options)
        assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
        assert backend.captures == [("ip", 96, None, None)]
        assert backend.links == [None]
    assert len(parse(file.read_bytes()).packets) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "extcap: nothing to do; give install"),
        (["--capture", "--extcap-interface", "vbackend-x", "--fifo", "/f"], "extcap: there is no interface"),
        (["--capture", *SETTING], "extcap: --capture needs --fifo"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], place: str, words: list[str], text: str) -> None:
    with served(place):
        assert one_line(vbackend(capsys, "extcap", *words), 2).startswith(text)


@pytest.mark.usefixtures("place")
def test_install_says_where(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    outcome = vbackend(capsys, "extcap", "install")
    assert outcome.out.splitlines() == [
        f"installed {tmp_path}/.local/lib/wireshark/extcap/vbackend-extcap",
        f"installed {tmp_path}/.config/wireshark/extcap/vbackend-extcap",
    ]
