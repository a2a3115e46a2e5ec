"""What is read from QEMU's command line, as tables, and what QEMU itself says to the memory we ask for."""

import subprocess

import pytest

from vbackend.errors import ConfigError
from vbackend.qemu.options import (
    DEFAULT_MEMORY,
    joined,
    memory_to_share,
    parse_size,
    shared_memory,
    surely_kvm,
)
from vbackend.qemu.version import QEMU

MIB = 1 << 20


def test_commas_are_doubled() -> None:
    assert joined("socket", [("id", "a"), ("path", "/tmp/a,b")]) == "socket,id=a,path=/tmp/a,,b"
    assert joined("socket", []) == "socket"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512 * MIB),
        ("512M", 512 * MIB),
        ("1g", 1024 * MIB),
        ("1.5G", 1536 * MIB),
        ("0.5", MIB // 2),
        ("65536K", 64 * MIB),
        ("8192B", 8192),
        ("1B", 8192),
        ("8193B", 16384),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0.0G", "M", "512MB", "-1", "1.G", "0x200", "99999999E", "\u0661"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size of a guest's memory; write for instance 512M or 4G"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "written"), [(1 << 30, "1G"), (1536 * MIB, "1536M"), (8192, "8K"), (MIB + 512, "1049088B")]
)
def test_a_size_is_written_exactly(size: int, written: str) -> None:
    assert f",size={written}," in shared_memory(size)[1]


# command, bytes to share
MEMORIES = [
    ("", DEFAULT_MEMORY),
    ("-m 512", 512 * MIB),
    ("--m 1G", 1024 * MIB),
    ("-m size=256M,slots=2,maxmem=1G", 256 * MIB),
    ("-m 192M,slots=2,maxmem=1G", 192 * MIB),
    ("-m slots=2,maxmem=1G", DEFAULT_MEMORY),
    ("-m 64 -m 96", 96 * MIB),
    ("-m 64 -m slots=2,maxmem=1G", 64 * MIB),
    ("-machine q35 -m 64", 64 * MIB),
    ("-machine q35,memory-backend=r -object memory-backend-memfd,id=r,size=64M", None),
    ("-M memory-backend=r -object memory-backend-file,id=r,size=64M,share=on,mem-path=/dev/shm", None),
    ("-numa node,memdev=r -object qom-type=memory-backend-ram,share=yes,id=r", None),
    ("-numa node,cpus=0 -m 64", 64 * MIB),
    ('-machine memory-backend=r -object {"qom-type":"memory-backend-ram","id":"r","share":true}', None),
]


@pytest.mark.parametrize(("command", "size"), MEMORIES)
def test_how_much_memory_is_to_be_shared(command: str, size: int | None) -> None:
    assert memory_to_share(["qemu", *command.split()]) == size


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("-m lots", "'lots' is no size"),
        (
            "-M memory-backend=r -object memory-backend-ram,id=r,size=64M",
            "-object memory-backend-ram,id=r, is private to QEMU; vhost-user needs share=on",
        ),
        ("-numa node,memdev=r -object memory-backend-memfd,share=off,id=r", "needs share=on"),
    ],
)
def test_memory_that_cannot_be_shared(command: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        memory_to_share(["qemu", *command.split()])


@pytest.mark.parametrize(
    ("command", "kvm"),
    [
        ("", False),
        ("-enable-kvm", True),
        ("--enable-kvm", True),
        ("-accel kvm", True),
        ("-accel accel=kvm,kernel-irqchip=on", True),
        ("-accel kvm -accel tcg", False),
        ("-accel tcg,thread=multi", False),
        ("-machine q35,accel=kvm", True),
        ("-machine q35,accel=kvm:tcg", False),
        ("-M pc", False),
    ],
)
def test_acceleration(command: str, kvm: bool) -> None:
    assert surely_kvm(["qemu", *command.split()]) is kvm


@pytest.mark.parametrize("told", [["-m", "64"], ["-machine", "pc", "-m", "size=1.5G"], []])
def test_qemu_takes_the_memory(told: list[str]) -> None:
    size = memory_to_share([QEMU, *told])
    assert size is not None
    command = [
        QEMU,
        "-nodefaults",
        "-display",
        "none",
        "-S",
        "-monitor",
        "stdio",
        *told,
        *shared_memory(size),
    ]
    done = subprocess.run(
        command, input="info memdev\nquit\n", capture_output=True, text=True, timeout=30, check=True
    )
    assert f"size:  {size}" in done.stdout
    assert "share: true" in done.stdout
    assert done.stderr == ""
