"""The commands of a lab's control socket: arguments in, the daemon's answers out."""

import base64

import pytest
from pydantic import JsonValue

from tests.unit.control.fakes import FakeBackend
from vbackend.control.commands import Desk, perform
from vbackend.errors import ConfigError
from vbackend.lab.model import Impair, Lab, Vm
from vbackend.lab.orders import EXEC_MAX, lab_commands
from vbackend.lab.status import LabStatus
from vbackend.qemu.agent import Result
from vbackend.services.snapshot import StationSnapshot

LAB = Lab(name="two", vm={"a": Vm(disk="/d")})
STATUS = LabStatus(name="two", file=None, pid=1, since=0, changing=False, ending=False, vms=(), links=())


class Fake:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.lab: Lab | None = LAB
        self.result = Result(b"out\xff", b"err", 7)

    def status(self) -> LabStatus:
        return STATUS

    def stations(self) -> dict[str, StationSnapshot]:
        return {}

    def planned(self, lab: Lab | None) -> list[str]:
        self.told.append(("planned", lab))
        return ["+ x"]

    async def apply(self, lab: Lab | None, file: str | None) -> None:
        self.told.append(("apply", lab, file))

    async def down(self) -> None:
        self.told.append(("down",))

    async def run(self, vm: str, command: str, timeout: float, most: int) -> Result:
        self.told.append(("run", vm, command, timeout, most))
        return self.result

    def attach(self, vm: str) -> str:
        self.told.append(("attach", vm))
        return "/a.sock"

    async def vm_start(self, vm: str) -> None:
        self.told.append(("start", vm))

    async def vm_stop(self, vm: str) -> None:
        self.told.append(("stop", vm))

    async def vm_restart(self, vm: str) -> None:
        self.told.append(("restart", vm))

    async def vm_save(self, vm: str, tag: str) -> None:
        self.told.append(("save", vm, tag))

    async def vm_restore(self, vm: str, tag: str) -> None:
        self.told.append(("restore", vm, tag))

    async def save_all(self, tag: str) -> None:
        self.told.append(("save all", tag))

    async def restore_all(self, tag: str) -> None:
        self.told.append(("restore all", tag))

    async def set_cable(
        self, cable: str, up: bool | None, forward: Impair | None, back: Impair | None
    ) -> None:
        self.told.append(("cable", cable, up, forward, back))


async def ask(fake: Fake, command: str, arguments: dict[str, JsonValue] | None = None) -> JsonValue:
    return await perform(Desk(FakeBackend(), lambda: None, "", lab_commands(fake)), command, arguments or {})


@pytest.mark.parametrize(
    ("command", "arguments", "answer", "told"),
    [
        ("lab-status", {}, STATUS.model_dump(mode="json"), None),
        ("query-stations", {}, {}, None),
        ("query-lab", {}, LAB.model_dump(mode="json"), None),
        ("lab-plan", {"lab": LAB.model_dump(mode="json")}, ["+ x"], ("planned", LAB)),
        ("lab-plan", {}, ["+ x"], ("planned", None)),
        ("lab-apply", {"lab": LAB.model_dump(mode="json"), "file": "/f"}, {}, ("apply", LAB, "/f")),
        ("lab-apply", {}, {}, ("apply", None, None)),
        ("lab-down", {}, {}, ("down",)),
        ("vm-attach", {"vm": "a"}, {"path": "/a.sock"}, ("attach", "a")),
        ("vm-start", {"vm": "a"}, {}, ("start", "a")),
        ("vm-stop", {"vm": "a"}, {}, ("stop", "a")),
        ("vm-restart", {"vm": "a"}, {}, ("restart", "a")),
        ("vm-save", {"vm": "a", "tag": "t"}, {}, ("save", "a", "t")),
        ("lab-save", {"tag": "t"}, {}, ("save all", "t")),
        ("lab-restore", {"tag": "t"}, {}, ("restore all", "t")),
        ("vm-restore", {"vm": "a", "tag": "t"}, {}, ("restore", "a", "t")),
        (
            "cable-set",
            {"cable": "core", "up": False, "forward": {"loss": "1%"}},
            {},
            ("cable", "core", False, Impair(loss="1%"), None),
        ),
        ("cable-set", {"cable": "core", "back": {}}, {}, ("cable", "core", None, None, Impair())),
    ],
)
async def test_commands(
    command: str, arguments: dict[str, JsonValue], answer: JsonValue, told: tuple[object, ...] | None
) -> None:
    fake = Fake()
    assert await ask(fake, command, arguments) == answer
    assert fake.told == ([] if told is None else [told])


async def test_exec() -> None:
    fake = Fake()
    answer = await ask(fake, "vm-exec", {"vm": "a", "command": "x", "timeout": 2.5})
    assert answer == {"stdout": base64.b64encode(b"out\xff").decode(), "stderr": "ZXJy", "status": 7}
    assert fake.told == [("run", "a", "x", 2.5, EXEC_MAX)]


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("lab-apply", {"lab": {"name": "two", "vm": {"a": {}}}}, "lab-apply: vm.a: nothing to boot"),
        ("cable-set", {"cable": "c", "back": {"los": "1"}}, "cable-set: los: "),
        ("vm-exec", {"vm": "a"}, "argument 'command' is missing"),
        ("vm-save", {"vm": "a", "tag": "-x"}, "argument 'tag'"),
    ],
)
async def test_arguments_that_make_no_sense(
    command: str, arguments: dict[str, JsonValue], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        await ask(Fake(), command, arguments)


async def test_they_are_listed() -> None:
    listed = await ask(Fake(), "query-commands")
    assert isinstance(listed, list)
    assert {"name": "vm-exec"} in listed
