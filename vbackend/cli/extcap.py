"""`vbackend extcap`: what Wireshark runs to find running backends and labs, and to capture from them."""

from typing import Annotated

import typer

__all__ = ["EXTCAP_SETTINGS", "extcap"]

# Later versions of Wireshark may say more than we know.
EXTCAP_SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True}


def extcap(
    action: Annotated[
        str | None,
        typer.Argument(
            metavar="install", help="Put vbackend into this user's Wireshark. The rest is for Wireshark."
        ),
    ] = None,
    extcap_interfaces: Annotated[
        bool, typer.Option("--extcap-interfaces", help="List what there is to capture.")
    ] = False,
    extcap_version: Annotated[
        str | None, typer.Option("--extcap-version", metavar="X.Y", help="Wireshark's version.")
    ] = None,
    extcap_interface: Annotated[
        str | None, typer.Option("--extcap-interface", metavar="NAME", help="One of these.")
    ] = None,
    extcap_dlts: Annotated[bool, typer.Option("--extcap-dlts", help="Say how its packets begin.")] = False,
    extcap_config: Annotated[bool, typer.Option("--extcap-config", help="Say what can be set.")] = False,
    capture: Annotated[bool, typer.Option("--capture", help="Capture from it.")] = False,
    fifo: Annotated[str | None, typer.Option("--fifo", metavar="PATH", help="Where to.")] = None,
    extcap_capture_filter: Annotated[
        str | None,
        typer.Option(
            "--extcap-capture-filter", metavar="EXPR", help="Check this filter, or capture with it."
        ),
    ] = None,
    snaplen: Annotated[
        int | None, typer.Option("--snaplen", metavar="N", help="Keep N bytes of each packet.")
    ] = None,
) -> None:
    """Show running backends and labs in Wireshark's list of interfaces."""
    import asyncio
    import os

    from vbackend import __version__
    from vbackend.control import extcap as module
    from vbackend.errors import ConfigError

    if action == "install":
        for place in module.install(os.environ):
            print(f"installed {place}")
    elif extcap_interfaces or (extcap_version is not None and extcap_interface is None):
        sources = asyncio.run(module.find_sources(os.environ))
        print("\n".join(module.interface_sentences(__version__, sources)))
    elif extcap_interface is None:
        raise ConfigError("extcap: nothing to do; give install, or let Wireshark run it")
    elif extcap_config:
        print("\n".join(module.config_sentences()))
    else:
        source = module.source_named(extcap_interface, asyncio.run(module.find_sources(os.environ)))
        if extcap_dlts:
            print("\n".join(module.dlt_sentences(source)))
        elif capture:
            from pydantic import JsonValue

            from vbackend.control.capture import capture as run_capture

            if fifo is None:
                raise ConfigError("extcap: --capture needs --fifo")
            chosen: dict[str, JsonValue] = {} if source.links is None else {"links": list(source.links)}
            options = {"filter": extcap_capture_filter or None, "snaplen": snaplen}
            given = {key: value for key, value in options.items() if value is not None}
            output = fifo
            run_capture(source.path, {**chosen, **given}, lambda: module.open_fifo(output))
        elif extcap_capture_filter is not None:
            from vbackend.capture.filter import compile_filter
            from vbackend.capture.pcapng import DEFAULT_SNAPLEN

            try:
                compile_filter(extcap_capture_filter, source.link_type, DEFAULT_SNAPLEN)
            except ConfigError as error:
                print(error)  # Wireshark shows it; nothing said means that the filter is good
