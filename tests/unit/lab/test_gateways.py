"""NATs by switch, and the one uplink they share. Taps, nftables and slirp4netns are real in tests/host."""

from pathlib import Path
from typing import Any

import pytest

from vbackend.backend import Backend
from vbackend.errors import HostError
from vbackend.host.ruleset import NatConfig
from vbackend.host.tap import HostDevices
from vbackend.lab import gateways as module
from vbackend.lab.gateways import Gateways, gateway_name
from vbackend.lab.model import Nat
from vbackend.lab.state import LabFolder

CONFIG = Nat(addr=("10.0.0.254/24",), forward=("tcp:8080:10.0.0.9:80",)).config
OTHER = Nat(addr=("10.1.0.254/24",)).config


class Noted:
    """Stands for the classes that touch the host, and notes what becomes of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[object, ...]] = []
        self.refuse = False
        self.too_many = -1  # forwards
        told = self.told
        noted = self

        class FakeNat:
            def __init__(self, _devices: object, lab: str, switch: str, _: NatConfig, **options: Any) -> None:
                self.name = (lab, switch, options["private"])

            async def start(self) -> None:
                if noted.refuse:
                    raise HostError("no nft")
                told.append(("nat", *self.name))

            async def stop(self) -> None:
                told.append(("no nat", *self.name))

        class FakeUplink:
            def __init__(self, _outside: object, _folder: Path, *, forwards: Any) -> None:
                self.forwards = len(forwards)

            async def start(self) -> None:
                if self.forwards == noted.too_many:
                    raise HostError("the port is taken")
                told.append(("uplink", self.forwards))

            async def stop(self) -> None:
                told.append(("no uplink",))

        async def add_port(_: object, spec: Any, *, segment: str) -> None:
            told.append(("port", spec.options.name, segment, spec.made_mac is not None))

        async def remove_port(_: object, name: str) -> None:
            told.append(("no port", name))

        monkeypatch.setattr(module, "Nat", FakeNat)
        monkeypatch.setattr(module, "Uplink", FakeUplink)
        monkeypatch.setattr(Backend, "add_port", add_port)
        monkeypatch.setattr(Backend, "remove_port", remove_port)


def make(tmp_path: Path, outside: object) -> Gateways:
    folder = LabFolder("two", {"XDG_RUNTIME_DIR": str(tmp_path)})
    found: Any = outside
    return Gateways(folder, Backend(name="two", segment=None), HostDevices(), found)


async def test_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(monkeypatch)
    gateways = make(tmp_path, None)
    await gateways.start("lan", CONFIG, lambda _: ())
    await gateways.stop("other")
    await gateways.stop("lan")
    assert noted.told == [
        ("port", "lan:nat", "lan", True),
        ("nat", "two", "lan", False),
        ("no nat", "two", "lan", False),
        ("no port", gateway_name("lan")),
    ]


async def test_one_uplink_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(monkeypatch)
    gateways = make(tmp_path, object())
    await gateways.start("lan", CONFIG, lambda _: ())
    await gateways.start("dmz", OTHER, lambda _: ())
    await gateways.close()
    uplinks = [words for words in noted.told if "uplink" in str(words[0])]
    assert uplinks == [
        ("uplink", 1),
        ("no uplink",),
        ("uplink", 1),
        ("no uplink",),
        ("uplink", 0),
        ("no uplink",),
    ]
    assert ("nat", "two", "dmz", True) in noted.told


async def test_a_start_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(monkeypatch)
    noted.refuse = True
    gateways = make(tmp_path, object())
    with pytest.raises(HostError, match="no nft"):
        await gateways.start("lan", CONFIG, lambda _: ())
    assert noted.told[-1] == ("no port", "lan:nat")
    await gateways.close()


async def test_a_start_that_fails_leaves_the_others_their_uplink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = Noted(monkeypatch)
    gateways = make(tmp_path, object())
    await gateways.start("dmz", OTHER, lambda _: ())
    noted.too_many = 1
    with pytest.raises(HostError, match="the port is taken"):
        await gateways.start("lan", CONFIG, lambda _: ())
    uplinks = [words for words in noted.told if "uplink" in str(words[0])]
    assert uplinks == [("uplink", 0), ("no uplink",), ("uplink", 0)]
    await gateways.close()
