"""What Wireshark is told, and where the program that tells it lies."""

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests.unit.cli.harness import served
from tests.unit.control.fakes import FakeBackend, port
from vbackend.capture.pcapng import LinkType
from vbackend.control import extcap as module
from vbackend.control.extcap import (
    PROGRAM,
    config_sentences,
    dlt_sentences,
    extcap_folders,
    find_sources,
    install,
    interface_sentences,
    open_fifo,
    source_named,
    sources_of,
)
from vbackend.errors import ConfigError, HostError
from vbackend.snapshot import BackendSnapshot, SegmentSnapshot


def lab(*segments: SegmentSnapshot) -> BackendSnapshot:
    names = [name for segment in segments for name in segment.ports]
    ports = tuple(
        port(name).model_copy(update={"kind": "unit" if name == "u" else "stream"}) for name in names
    )
    return FakeBackend().snapshot().model_copy(update={"segments": segments, "ports": ports})


def test_a_backend_is_one_interface_a_lab_one_for_each_link_too() -> None:
    (one,) = sources_of("/x", FakeBackend().snapshot(), None)
    assert (one.value, one.display, one.links) == ("vbackend-default", "vbackend default", None)
    cable = SegmentSnapshot(name="r1:eth1--r2:eth1", kind="cable", ports=("r1:eth1", "r2:eth1"))
    switch = SegmentSnapshot(name="lan", kind="switch", ports=("r1:eth0", "u"))
    found = list(sources_of("/y", lab(cable, switch), "two"))
    assert [(each.value, each.links, each.link_type) for each in found] == [
        ("vbackend-lab-two", (), LinkType.ETHERNET),
        ("vbackend-lab-two-r1-eth1--r2-eth1", ("r1:eth1--r2:eth1",), LinkType.ETHERNET),
        ("vbackend-lab-two-lan-r1-eth0", ("lan/r1:eth0",), LinkType.ETHERNET),
        ("vbackend-lab-two-lan-u", ("lan/u",), LinkType.NULL),
    ]
    assert found[1].display == "vbackend lab two: r1:eth1--r2:eth1"


def test_links_that_would_be_called_the_same_are_apart() -> None:
    segments = [SegmentSnapshot(name=name, kind="switch", ports=("a-b", "a:b", "a/b")) for name in ("x",)]
    values = [each.value for each in sources_of("/y", lab(*segments), "two")]
    assert len(set(values)) == len(values) == 4
    found = list(sources_of("/y", lab(*segments), "two"))
    assert source_named(values[2], found) is found[2]
    with pytest.raises(ConfigError, match="no interface 'vbackend-x' any more"):
        source_named("vbackend-x", found)


def test_sentences_keep_their_shape_whatever_is_in_them() -> None:
    segment = SegmentSnapshot(name="x{y}\nz", kind="switch", ports=("a}b",))
    sources = list(sources_of("/y", lab(segment), "two"))
    lines = interface_sentences("1.0", sources)
    assert lines[0] == "extcap {version=1.0}{display=vbackend}"
    assert lines[2] == "interface {value=vbackend-lab-two-x-y--z-a-b}{display=vbackend lab two: x y z/a b}"
    assert dlt_sentences(sources[0]) == ["dlt {number=1}{name=EN10MB}{display=Ethernet}"]
    assert [line.count("{") for line in config_sentences()] == [6]


async def test_what_runs_is_found(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert await find_sources(environ) == []
    folder = tmp_path / "vbackend" / "labs" / "two"
    folder.mkdir(parents=True)
    (tmp_path / "vbackend" / "stale.sock").write_text("")
    with served(f"{tmp_path}/vbackend/default.sock"), served(f"{folder}/control.sock"):
        found = await find_sources(environ)
    assert [each.value for each in found] == [
        "vbackend-default",
        "vbackend-lab-two",
        "vbackend-lab-two-default-a",
        "vbackend-lab-two-default-b",
    ]
    assert found[1].path == f"{folder}/control.sock"


def test_a_fifo_is_opened_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reading = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reading.start()
    with open_fifo(str(fifo)) as output:
        assert os.get_blocking(output.fileno())
        output.write(b"x")
    reading.join()
    assert read == [b"x"]
    monkeypatch.setattr(module, "_FIFO_S", 0.0)
    for path, words in ((str(fifo), "nobody reads it"), (f"{tmp_path}/no", "No such file")):
        with pytest.raises(HostError, match=words):
            open_fifo(path)


def test_folders_of_both_kinds_of_wireshark(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    new = tmp_path / ".local/lib/wireshark/extcap"
    assert extcap_folders(home) == [new, tmp_path / ".config/wireshark/extcap"]
    assert extcap_folders({**home, "XDG_CONFIG_HOME": "/c"}) == [new, Path("/c/wireshark/extcap")]
    (tmp_path / ".wireshark").mkdir()
    assert extcap_folders(home) == [new, tmp_path / ".wireshark/extcap"]
    (tmp_path / ".config/wireshark").mkdir(parents=True)
    assert extcap_folders(home) == [new, tmp_path / ".config/wireshark/extcap"]
    with pytest.raises(HostError, match="HOME is not set"):
        extcap_folders({})


def test_the_program_runs(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    for _ in range(2):
        made = install(environ)
    assert [path.name for path in made] == [PROGRAM] * 2
    assert [path.name for path in made[0].parent.iterdir()] == [PROGRAM]
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    done = subprocess.run(
        [made[0], "--extcap-interfaces"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(b"extcap {version=")
    assert done.stderr == b""
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot write"):
        install({"HOME": f"{tmp_path}/file"})
