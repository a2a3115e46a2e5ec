"""A running lab, as a test has it."""

import time
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from vbackend.cli.lab_view import lab_view
from vbackend.cli.render import backend_view
from vbackend.dataplane import drop_reasons
from vbackend.errors import ConfigError, HostError
from vbackend.lab import model
from vbackend.lab.client import Named, apply_lab, down, ensure_daemon
from vbackend.lab.state import LabFolder
from vbackend.snapshot import PortSnapshot
from vbackend.testing.control import LabControl, blocking
from vbackend.testing.fake_guest import PATIENCE_S, FakeGuest
from vbackend.testing.link import Link
from vbackend.testing.vm import Vm

__all__ = ["Lab"]

_SNAPSHOT: Final = "vbackend-testing"  # the tag
_SNAPSHOT_S: Final = 120.0
_PAUSE_S: Final = 0.05
_WIDTH: Final = 120


class Lab:
    """One lab: `lab.vm("r1")`, `lab.link("core")`. Made by the fixtures `lab` and `make_lab`."""

    def __init__(self, wanted: model.Lab, environ: Mapping[str, str], folder: Path) -> None:
        """Starts it, and waits until all its guests are set up. `folder`: for what tests capture.

        VbackendError: it cannot be started, and nothing is left of it.
        """
        self.name: Final = wanted.name
        self.model: Final = wanted
        self.control: Final = LabControl(wanted.name, environ)
        self._folder = folder
        self._links: dict[str, Link] = {}
        self._guests: list[FakeGuest] = []
        self._saved: dict[str, float] = {}
        blocking(ensure_daemon, self.name, environ)
        self._apply()
        self._begin(folder)

    def vm(self, name: str) -> Vm:
        """A VM by its name in the lab file. ConfigError: there is none."""
        if name not in self.model.vm:
            known = ", ".join(self.model.vm) or "none"
            raise ConfigError(f"lab {self.name!r} has no VM {name!r}; there are {known}")
        return Vm(name, self.control)

    def link(self, title: str) -> Link:
        """A link by its title: a cable's name, or SWITCH/END. ConfigError: there is none."""
        if title not in self.model.links():
            known = ", ".join(self.model.links()) or "none"
            raise ConfigError(f"lab {self.name!r} has no link {title!r}; there are {known}")
        if title not in self._links:
            self._links[title] = Link(title, self.control, self._before, self._folder)
        return self._links[title]

    @property
    def vms(self) -> dict[str, Vm]:
        """All VMs, by name."""
        return {name: self.vm(name) for name in self.model.vm}

    @property
    def links(self) -> dict[str, Link]:
        """All links, by title."""
        return {title: self.link(title) for title in self.model.links()}

    def fake_guest(self, port: str, *, packed: bool = False) -> FakeGuest:
        """A guest in Python at a stream or vhost-user PORT of the lab, by the PORT's name; connected on both sides."""
        ends = {model.end_name(end): end for end in self.model.ports()}
        if port not in ends:
            raise ConfigError(
                f"lab {self.name!r} has no PORT {port!r}; there are {', '.join(ends) or 'none'}"
            )
        before = self._session(port)
        guest = FakeGuest(ends[port], packed=packed)
        self._guests.append(guest)
        guest.wait_connected()
        self._wait(lambda: self._session(port) > before, f"port {port} is connected", PATIENCE_S)
        return guest

    def wait_for_first_frame(self, end: str, timeout: float = 30.0) -> None:
        """Wait until a frame came from an end ("r1:eth0", or a PORT's name) since the test got the lab.

        AssertionError: none came.
        """
        before = {port.name: port.rx.frames_in for port in self._before.ports}
        self._wait(lambda: self._port(end).rx.frames_in > before.get(end, 0), f"a frame from {end}", timeout)

    def wait_for_lease(self, end: str, timeout: float = 30.0) -> str:
        """Wait until DHCP of the lab has given an address to a VM, or to one of its cards ("r1:eth0"); returns it.

        AssertionError: it has not.
        """
        name, _, nic = end.partition(":")
        cards = {self.vm(name).mac(nic)} if nic else {each.mac for each in self.vm(name).status.nics}

        def leases() -> list[str]:
            return [each.address for each in self.control.status().leases if each.mac in cards]

        self._wait(leases, f"a lease of {end}", timeout)
        return leases()[0]

    def show(self) -> str:
        """What `vbackend ps` and `vbackend show` print."""
        text, now = StringIO(), time.time()
        console = Console(file=text, width=_WIDTH, emoji=False, color_system=None)
        console.print(lab_view(self.control.status(), now=now))
        console.print()
        console.print(backend_view(self.control.snapshot(), now=now, reasons=dict(drop_reasons())))
        return text.getvalue()

    # What the plugin does with it

    def save(self) -> None:
        """Keep the state of all guests, for `reuse`. HostError: QEMU cannot."""
        self._all("lab-save")
        self._saved = self._ages()

    def reuse(self, folder: Path) -> None:
        """Make it as it was when it was new: guests as they were saved, links as the lab file has them.

        VbackendError: it cannot be; take it down.
        """
        for link in self._links.values():
            link.restore()
        self._apply()
        if self._ages() == self._saved:
            self._all("lab-restore")
        else:  # some had to be started again; the others' state is that of another test
            raise HostError(f"lab {self.name!r}: not all guests are those that were saved")
        self._begin(folder)

    def let_go(self) -> None:
        """The test is over: its guests in Python hang up."""
        for guest in self._guests:
            guest.close()
        self._guests.clear()

    def down(self) -> None:
        """Take it down, whatever state it is in."""
        self.let_go()
        blocking(down, self.name, self.control.environ)

    @property
    def place(self) -> LabFolder:
        """Where its logs are."""
        return LabFolder(self.name, self.control.environ)

    def _begin(self, folder: Path) -> None:
        self._folder = folder
        self._before = self.control.snapshot()
        self._links.clear()

    def _apply(self) -> None:
        blocking(apply_lab, Named(self.name, self.model), self.control.environ, _unheard)

    def _ages(self) -> dict[str, float]:
        """Which QEMUs these are."""
        return {vm.name: vm.since for vm in self.control.status().vms}

    def _all(self, command: str) -> None:
        if self.model.vm:
            self.control.execute(command, {"tag": _SNAPSHOT}, timeout=_SNAPSHOT_S)

    def _port(self, name: str) -> PortSnapshot:
        for port in self.control.snapshot().ports:
            if port.name == name:
                return port
        raise ConfigError(f"lab {self.name!r} has no end {name!r}")

    def _session(self, port: str) -> int:
        """Its number; 0: nobody is connected to the port."""
        session = self._port(port).session
        return 0 if session is None else session.number

    def _wait(self, condition: Callable[[], object], what: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"lab {self.name!r}: not within {timeout:g} s: {what}")
            time.sleep(_PAUSE_S)

    def __repr__(self) -> str:
        return f"<Lab {self.name}>"


def _unheard(_name: str, _data: Mapping[str, Any]) -> None:
    """Progress, which nobody watches in a test."""
