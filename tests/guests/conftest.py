"""Guests for the tests of this folder: the image, built once, and a place to boot guests from; more front-ends."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.backports import backports_qemu
from tests.support.guest import Guests
from tests.support.testpmd import PROGRAM as TESTPMD
from tests.support.uml import uml_initrd
from vbackend.errors import HostError
from vbackend.images import BuiltImage, build_image


@pytest.fixture(scope="session")
def image() -> BuiltImage:
    return build_image("small")


@pytest.fixture(scope="session")
def newer_qemu() -> str:
    """The program of Debian's backports, beside the installed one."""
    try:
        return str(backports_qemu())
    except HostError as error:
        pytest.skip(f"no QEMU of backports: {error}")


@pytest.fixture(scope="session")
def uml(image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initramfs for user-mode Linux."""
    try:
        return uml_initrd(image, tmp_path_factory.mktemp("uml") / "initrd")
    except HostError as error:
        pytest.skip(f"no user-mode Linux: {error}")


@pytest.fixture(scope="session")
def dpdk() -> None:
    """DPDK's testpmd is installed."""
    if shutil.which(TESTPMD) is None:
        pytest.skip(f"there is no {TESTPMD}: on Debian it is in package dpdk-dev")


@pytest_asyncio.fixture
async def guests(image: BuiltImage, artifacts: Path) -> AsyncIterator[Guests]:
    booted = Guests(image, artifacts)
    try:
        yield booted
    finally:
        await booted.close()
