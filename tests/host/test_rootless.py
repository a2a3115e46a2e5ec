"""What an ordinary user can do: attach to devices that root made for them, and be told how to get the rest."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.netns import Namespace, differences, netns
from tests.support.privileges import as_user, seeing_open_tun

__all__ = ["netns"]

pytestmark = pytest.mark.root

USER = 4242

SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from vbackend.errors import HostError
from vbackend.host.journal import Journal
from vbackend.host.tap import HostDevices
from vbackend.ports.parse import parse_port
from vbackend.ports.spec import TapSpec

async def main(directory, text):
    assert os.geteuid() != 0
    devices = HostDevices(Journal(Path(directory)))
    spec = parse_port(text)
    try:
        device = await (devices.open_tap(spec) if isinstance(spec, TapSpec) else devices.open_tun(spec))
    except HostError as error:
        print("HostError:", error)
        return
    print("opened", device.ifname, "created" if device.created else "attached", flush=True)
    sys.stdin.readline()
    await devices.close_all()

asyncio.run(main(*sys.argv[1:]))
"""


def opened_by_user(netns: Namespace, directory: Path, text: str) -> subprocess.Popen[str]:
    """Run SCRIPT as an ordinary user without capabilities, in the namespace."""
    script = (*as_user(USER), sys.executable, "-c", SCRIPT, str(directory), text)
    return subprocess.Popen(
        netns.command(*seeing_open_tun(directory.with_name("tun")), *script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture
def readable(tmp_path: Path) -> Path:
    """A directory of the user's own."""
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    own = tmp_path / "run"
    own.mkdir()
    subprocess.run(["chown", str(USER), str(own)], check=True)
    return own


@pytest.mark.parametrize("text", ["tap:mine0", "tun:mine0"])
def test_attaches_to_a_device_made_for_them(netns: Namespace, readable: Path, text: str) -> None:
    netns.ip("tuntap", "add", "dev", "mine0", "mode", text[:3], "user", str(USER))
    netns.ip("address", "add", "10.0.0.1/24", "dev", "mine0")
    netns.ip("link", "set", "mine0", "up")
    before = netns.state()
    with opened_by_user(netns, readable, text) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "opened mine0 attached\n"
        assert "LOWER_UP" in netns.links()["mine0"]["flags"]
        out, _ = child.communicate("\n", timeout=20)
        assert (out, child.returncode) == ("", 0)
    assert netns.links()["mine0"]["linkinfo"] == next(
        link["linkinfo"] for link in before["-d link"] if link["ifname"] == "mine0"
    )
    assert netns.addresses("mine0") == {"10.0.0.1/24"}
    assert not list(readable.iterdir())


@pytest.mark.parametrize(
    ("made", "text", "message"),
    [
        (
            (),
            "tap:mine0",
            "cannot make tap device mine0: Operation not permitted; it needs CAP_NET_ADMIN: run as root, or have "
            "root make it once with `ip tuntap add dev mine0 mode tap user $USER`",
        ),
        (
            ("tuntap", "add", "dev", "mine0", "mode", "tap", "user", "1"),
            "tap:mine0",
            "cannot attach tap device mine0: Operation not permitted; it belongs to user 1: run as root, or ",
        ),
        (
            ("tuntap", "add", "dev", "mine0", "mode", "tap", "user", str(USER)),
            "tap:mine0",
            "cannot set mine0 up: Operation not permitted; it needs CAP_NET_ADMIN: run as root, or have root do "
            "`ip link set dev mine0 up` once",
        ),
        (
            ("tuntap", "add", "dev", "mine0", "mode", "tap", "user", str(USER)),
            "tap:mine0,mtu=1400",
            "or have root do `ip link set dev mine0 mtu 1400` once",
        ),
        (
            ("tuntap", "add", "dev", "mine0", "mode", "tap", "user", str(USER)),
            "tap:mine0,bridge=br0",
            "cannot make bridge br0: Operation not permitted; ",
        ),
        (
            ("link", "add", "eth9", "type", "bridge"),
            "tap:eth9",
            "cannot attach tap device eth9: a device of that name exists and is no tap or tun; take another name",
        ),
        ((), "tap:mine0,netns=NAME", "Operation not permitted; it needs CAP_SYS_ADMIN: run as root"),
    ],
)
def test_what_needs_privilege_says_so(
    netns: Namespace, readable: Path, made: tuple[str, ...], text: str, message: str
) -> None:
    if made:
        netns.ip(*made)
    before = netns.state()
    with opened_by_user(netns, readable, text.replace("NAME", netns.name)) as child:
        out, _ = child.communicate("\n", timeout=20)
    assert out.startswith("HostError: "), out
    assert message in out
    assert out.count("\n") == 1
    assert not differences(before, netns.state())
    assert not list(readable.iterdir())
