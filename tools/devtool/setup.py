"""`tools/dev setup`: from a fresh Debian 12 with CPython, cargo and git to a place where everything runs.

Four steps: Debian packages, the Rust toolchain, the virtual environment, the engine. A step whose inputs
have not changed since it last succeeded is skipped. Only the Debian packages need root.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.devtool.run import ROOT, VENV, DevError, output, run, venv_bin

__all__ = ["build_engine", "setup", "upgrade"]

# package -> (a program that proves it elsewhere than on Debian, what it is for)
DEBIAN_PACKAGES = {
    "bind9-dnsutils": ("dig", "tests"),
    "busybox-static": ("busybox", "tests"),
    "ca-certificates": (None, "downloads"),
    "cpio": ("cpio", "tests"),
    "dhcpcd-base": ("dhcpcd", "tests"),
    "dpdk-dev": ("dpdk-testpmd", "tests, and reference of the bench"),
    "ethtool": ("ethtool", "looking at taps"),
    "g++": ("c++", "fuzz targets"),
    "gcc": ("cc", "linker of the engine"),
    "iperf3": ("iperf3", "demo"),
    "iproute2": ("ip", "network namespaces"),
    "iputils-ping": ("ping", "tests and demo"),
    "isc-dhcp-client": ("dhclient", "tests"),
    "libc6-dev": (None, "linker of the engine"),
    "libpcap0.8": (None, "filters of captures"),
    "ndisc6": ("rdisc6", "tests"),
    "nftables": ("nft", "NAT of labs"),
    "passt": ("passt", "reference of the bench"),
    "procps": ("sysctl", "tests"),
    "qemu-system-x86": ("qemu-system-x86_64", "guests"),
    "qemu-utils": ("qemu-img", "snapshots of guests"),
    "slirp4netns": ("slirp4netns", "uplink of labs without root"),
    "tcpdump": ("tcpdump", "demo"),
    "tshark": ("tshark", "tests"),
    "user-mode-linux": ("linux.uml", "tests"),
    "vde2": ("vde_switch", "tests, and reference of the bench"),
}
RUST_VERSION = (1, 88)  # rust-version of vbackend/native/Cargo.toml
NATIVE = ROOT / "vbackend" / "native"
CONSTRAINTS = ROOT / "tools" / "constraints.txt"


def setup() -> None:
    """Bring everything up to date; `DevError` says what is missing and how to get it."""
    _debian_packages()
    _rust_toolchain()
    _virtual_environment()
    build_engine(dev=False)


def upgrade() -> None:
    """Take the newest Python packages that pyproject.toml allows, and pin them."""
    CONSTRAINTS.write_text("")
    _virtual_environment(newest=True)
    listed = output([venv_bin("python"), "-m", "pip", "freeze", "--exclude", "vbackend"])
    if not listed:
        raise DevError("pip freeze listed nothing")
    pins = [line for line in listed.splitlines() if re.fullmatch(r"[\w.-]+==[\w.+]+", line)]
    head = "# What `tools/dev setup` installs; written by `tools/dev upgrade`.\n"
    CONSTRAINTS.write_text(head + "\n".join(pins) + "\n")
    _write_stamp("python", _python_inputs())


def build_engine(*, dev: bool) -> None:
    """Build `vbackend/_native.abi3.so` in the tree, unless sources and profile are unchanged."""
    profile = "dev" if dev else "release"
    inputs = f"{profile} {_digest(_native_sources())}"
    built = sorted((ROOT / "vbackend").glob("_native*.so"))
    if len(built) == 1 and _read_stamp("engine") == inputs:
        return
    for (
        old
    ) in built:  # maturin leaves a library of another name beside the new one, and import may take the old
        old.unlink()
    run(
        [venv_bin("maturin"), "develop", *([] if dev else ["--release"])],
        env={"PIP_CONSTRAINT": "tools/constraints.txt", "PIP_QUIET": "1"},
    )
    _write_stamp("engine", inputs)


def _debian_packages() -> None:
    if shutil.which("dpkg-query") is None:
        lacking = {
            p: (prog, why) for p, (prog, why) in DEBIAN_PACKAGES.items() if prog and not shutil.which(prog)
        }
        if lacking:
            lines = [
                f"  {prog} ({why}; on Debian in package {package})"
                for package, (prog, why) in lacking.items()
            ]
            raise DevError(
                "this is not Debian; install these programs and run it again:\n" + "\n".join(lines)
            )
        return
    wanted = set(DEBIAN_PACKAGES)
    if not (importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")):
        wanted.add("python3-venv")
    listed = output(["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n"]) or ""
    installed = {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}
    missing = sorted(wanted - installed)
    if not missing:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise DevError(f"Debian packages are missing; as root:\n  apt-get update && {' '.join(install)}")
    run(["apt-get", "update"])
    run(install, env={"DEBIAN_FRONTEND": "noninteractive"})


def _rust_toolchain() -> None:
    told = output(["cargo", "--version"])
    found = re.match(r"cargo (\d+)\.(\d+)", told or "")
    if found is None or (int(found[1]), int(found[2])) < RUST_VERSION:
        wanted = ".".join(map(str, RUST_VERSION))
        have = told.strip() if told else "there is no cargo in PATH"
        raise DevError(f"needs Rust {wanted} or later, {have}: install it with rustup, see https://rustup.rs")
    lacking = [
        name
        for name, sub in (("rustfmt", "fmt"), ("clippy", "clippy"))
        if not output(["cargo", sub, "--version"])
    ]
    if lacking:
        if shutil.which("rustup") is None:
            raise DevError(f"cargo lacks {' and '.join(lacking)}: rustup component add {' '.join(lacking)}")
        run(["rustup", "component", "add", *lacking])


def _virtual_environment(*, newest: bool = False) -> None:
    inputs = _python_inputs()
    if not newest and _read_stamp("python") == inputs:
        return
    if not (VENV / "bin" / "python").exists():
        run([sys.executable, "-m", "venv", VENV.name])
    pip = [venv_bin("python"), "-m", "pip", "install", "--quiet"]
    run([*pip, "--upgrade", "pip>=25.1"])  # the first with --group
    run([*pip, *(["--upgrade"] if newest else ["--constraint", "tools/constraints.txt"]), "--group", "dev"])
    _write_stamp("python", inputs)


def _python_inputs() -> str:
    return f"{sys.version_info[:2]} {_digest([ROOT / 'pyproject.toml', CONSTRAINTS])}"


def _native_sources() -> Iterable[Path]:
    yield ROOT / "pyproject.toml"
    yield ROOT / ".cargo" / "config.toml"
    for folder, subfolders, names in os.walk(NATIVE):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("target"))
        yield from (Path(folder) / name for name in sorted(names) if name.endswith((".rs", ".toml", ".lock")))


def _digest(files: Iterable[Path]) -> str:
    seen = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        seen.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode())
        seen.update(content)
    return seen.hexdigest()


def _read_stamp(name: str) -> str | None:
    try:
        return (VENV / f"vbackend-{name}.stamp").read_text()
    except FileNotFoundError:
        return None


def _write_stamp(name: str, inputs: str) -> None:
    (VENV / f"vbackend-{name}.stamp").write_text(inputs)
