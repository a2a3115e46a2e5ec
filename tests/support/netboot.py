"""What a guest without a disk boots from: DHCP and HTTP in a namespace, served by busybox.

    with netboot(namespace, "tap0", "10.5.0.254", image, folder):
        guest = await Guest.boot(NetworkBoot.of(image), folder, network=...)

The boot ROM's iPXE asks DHCP for an address and a script, and the script has it load the guest's kernel and
initramfs by HTTP: what boots has come through the network as it was.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from tests.support.netns import Namespace
from vbackend.images import BuiltImage

__all__ = ["NetworkBoot", "boot_script", "dhcp_configuration", "netboot"]


@dataclass(frozen=True, slots=True)
class NetworkBoot(BuiltImage):
    """An image that a guest has to fetch itself."""

    @classmethod
    def of(cls, image: BuiltImage) -> Self:
        return cls(**{field.name: getattr(image, field.name) for field in fields(image)})

    def boot_arguments(self, hostname: str) -> list[str]:  # noqa: ARG002 (the script has it)
        return ["-m", str(self.memory_mib), "-boot", "n"]


def boot_script(image: BuiltImage, address: str, hostname: str) -> str:
    """For iPXE: it takes what it loads from DHCP for a script when it begins so."""
    words = f"{image.cmdline} hostname={hostname} initrd={image.initrd.name}"
    files = [
        f"kernel http://{address}/{image.kernel.name} {words}",
        f"initrd http://{address}/{image.initrd.name}",
    ]
    return "\n".join(["#!ipxe", *files, "boot", ""])


def dhcp_configuration(interface: str, address: str, folder: Path) -> str:
    """For busybox' udhcpd: leases from 50 to 59 of the server's /24."""
    net = address.rpartition(".")[0]
    lines = [
        f"start {net}.50",
        f"end {net}.59",
        f"interface {interface}",
        f"siaddr {address}",
        f"boot_file http://{address}/boot",
        f"lease_file {folder}/leases",
        f"pidfile {folder}/udhcpd.pid",
        "option subnet 255.255.255.0",
    ]
    return "".join(f"{line}\n" for line in lines)


@contextlib.contextmanager
def netboot(
    namespace: Namespace, interface: str, address: str, image: BuiltImage, folder: Path
) -> Iterator[None]:
    """Serve DHCP on `interface` and the image on `address`; logs lie in `folder`."""
    site = folder / "http"
    site.mkdir()
    for file in (image.kernel, image.initrd):
        (site / file.name).symlink_to(file)
    (site / "boot").write_text(boot_script(image, address, "pxe"))
    (folder / "leases").touch()
    (folder / "udhcpd.conf").write_text(dhcp_configuration(interface, address, folder))
    dhcp = ["busybox", "udhcpd", "-f", str(folder / "udhcpd.conf")]
    http = ["busybox", "httpd", "-f", "-vv", "-p", f"{address}:80", "-h", str(site)]
    with _served(namespace, dhcp, folder / "dhcp.log"), _served(namespace, http, folder / "http.log"):
        yield


@contextlib.contextmanager
def _served(namespace: Namespace, command: Sequence[str], log: Path) -> Iterator[None]:
    with log.open("wb") as sink:
        child = subprocess.Popen(
            namespace.command(*command), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    try:
        yield
    finally:
        child.kill()
        child.wait()
