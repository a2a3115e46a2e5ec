from pathlib import Path

import pytest

from tests.support.uml import uml_command, uml_initrd
from vbackend.errors import HostError
from vbackend.images import BuiltImage


def test_command() -> None:
    words = uml_command("u", Path("/x"), Path("/x/initrd"), 9, [Path("/a.sock"), Path("/b.sock")])
    assert words[0] == "linux.uml"
    assert {"umid=u", "uml_dir=/x", "initrd=/x/initrd", "ssl1=fd:9", "agent=/dev/ttyS1", "mem=192M"} < set(
        words
    )
    assert words[-2:] == ["virtio_uml.device=/a.sock:1", "virtio_uml.device=/b.sock:1"]
    assert uml_command("u", Path("/x"), Path("/i"), 9, [], ["eth0=daemon"])[-2:] == ["quiet", "eth0=daemon"]
    assert words.index("con0=null,fd:1") < words.index("con=null")


def test_not_installed(tmp_path: Path) -> None:
    image = BuiltImage("x", tmp_path, tmp_path / "k", tmp_path / "i", "", 64, ())
    with pytest.raises(HostError, match="Debian it is in package user-mode-linux"):
        uml_initrd(image, tmp_path / "initrd", modules=tmp_path / "none")
