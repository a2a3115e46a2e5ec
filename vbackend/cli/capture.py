"""`vbackend capture`: what passes ports of a running backend, as pcapng, to a file or to Wireshark."""

from typing import Annotated

import typer

from vbackend.cli.options import ControlOption, NameOption

__all__ = ["capture"]


def capture(
    ports: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PORT|LINK",
            help="Names of ports, as `show` prints them; with --lab links, as --interfaces lists them. [default: all]",
        ),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option("-w", metavar="FILE|-", help="Where to. [default: -, stdout, when that is no terminal]"),
    ] = None,
    filter: Annotated[
        str | None, typer.Option("--filter", metavar="EXPR", help="Only what matches, see pcap-filter(7).")
    ] = None,
    snaplen: Annotated[
        int | None, typer.Option("--snaplen", metavar="N", help="Keep N bytes of each packet.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", metavar="N", help="End after N packets.")] = None,
    unit_link: Annotated[
        str | None,
        typer.Option(
            "--unit-link",
            metavar="null|loop|raw",
            help="What packets of tun units begin with. [default: null, loop where the unit's reader has that]",
        ),
    ] = None,
    lab: Annotated[
        str | None,
        typer.Option("--lab", metavar="LAB", help="Links of this running lab, each direction by itself."),
    ] = None,
    interfaces: Annotated[
        bool, typer.Option("--interfaces", help="List what there is to capture, and do not.")
    ] = False,
    name: NameOption = None,
    control: ControlOption = None,
) -> None:
    """Capture frames of a running backend or lab as pcapng, with direction and what became of each."""
    import os
    import sys
    from pathlib import Path
    from typing import BinaryIO

    from pydantic import JsonValue

    from vbackend.capture.links import links_of_snapshot
    from vbackend.control.capture import capture as run_capture
    from vbackend.control.client import status
    from vbackend.control.place import control_path, lab_control_path
    from vbackend.errors import ConfigError

    if lab is not None and (name is not None or control is not None):
        raise ConfigError("--lab: a lab has its own control socket; leave --name and --control out")
    path = control_path(name, control, os.environ) if lab is None else lab_control_path(lab, os.environ)
    if interfaces:
        snapshot = status(path)
        rows = [(port.name, port.where) for port in snapshot.ports]
        if lab is not None:
            rows = [(link.title, one.name) for link in links_of_snapshot(snapshot) for one in link.interfaces]
        for unknown in sorted({*(ports or ())} - {title for title, _ in rows}):
            raise ConfigError(f"there is no {'port' if lab is None else 'link'} {unknown!r} to capture")
        rows = [row for row in rows if not ports or row[0] in ports]
        width = max((len(title) for title, _ in rows), default=0)
        for title, what in rows:
            print(f"{title:<{width}}  {what}")
        return
    to_stdout = write in (None, "-")
    if to_stdout and sys.stdout.isatty():
        raise ConfigError("capture: stdout is a terminal; give -w FILE, or pipe to `wireshark -k -i -`")

    def open_output() -> BinaryIO:
        if write is None or to_stdout:
            return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        return Path(write).open("wb")

    options = {"filter": filter, "snaplen": snaplen, "count": count, "unit-link": unit_link}
    given = {key: value for key, value in options.items() if value is not None}
    chosen: dict[str, JsonValue] = {"ports" if lab is None else "links": list(ports or ())}
    try:
        tally = run_capture(path, {**chosen, **given}, open_output)
    except OSError as error:
        if error.filename is None and error.strerror:
            place = "stdout" if write is None or to_stdout else write
            raise OSError(error.errno, f"cannot write all of the capture: {error.strerror}", place) from None
        raise
    print(f"{tally.packets} packets captured, {tally.lost} lost", file=sys.stderr)
