from pathlib import Path

from tests.support.netboot import NetworkBoot, boot_script, dhcp_configuration
from vbackend.images import BuiltImage

IMAGE = BuiltImage("x", Path("/i"), Path("/i/vmlinuz"), Path("/i/initrd.cpio"), "quiet", 64, ())


def test_script() -> None:
    assert boot_script(IMAGE, "10.5.0.254", "pxe").splitlines() == [
        "#!ipxe",
        "kernel http://10.5.0.254/vmlinuz quiet hostname=pxe initrd=initrd.cpio",
        "initrd http://10.5.0.254/initrd.cpio",
        "boot",
    ]


def test_configuration() -> None:
    lines = dhcp_configuration("tap0", "10.5.0.254", Path("/f")).splitlines()
    assert {"start 10.5.0.50", "interface tap0", "boot_file http://10.5.0.254/boot"} < set(lines)


def test_an_image_that_is_not_there() -> None:
    image = NetworkBoot.of(IMAGE)
    assert image.boot_arguments("pxe") == ["-m", "64", "-boot", "n"]
    assert image.kernel == IMAGE.kernel
