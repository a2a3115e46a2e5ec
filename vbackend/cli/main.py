"""The `vbackend` command: puts the sub-commands together and turns errors into one line and an exit status.

    0  done        1  the host, a peer or a running backend says no        2  an argument makes no sense

Rule: nothing heavy is imported before a sub-command runs, so that help, completion and `show` start quickly.
"""

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer

from vbackend.cli.add import add
from vbackend.cli.args import args
from vbackend.cli.capture import capture
from vbackend.cli.doctor import doctor
from vbackend.cli.exec import ExecCommand, exec_
from vbackend.cli.extcap import EXTCAP_SETTINGS, extcap
from vbackend.cli.graph import graph
from vbackend.cli.guests import console, logs
from vbackend.cli.image import image_app
from vbackend.cli.lab import lab_app
from vbackend.cli.labs import apply, down, plan, ps, up
from vbackend.cli.remove import remove
from vbackend.cli.run import run
from vbackend.cli.set import set_
from vbackend.cli.show import show
from vbackend.errors import ConfigError, VbackendError, one_line

__all__ = ["app", "entry", "main"]

# The class of all usage errors, found by its public subclass: typer carries click under changing names.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="A user-space network backend for QEMU: joins guests to each other and to the host.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run)
app.command("exec", cls=ExecCommand)(exec_)
app.command("args")(args)
app.command("show")(show)
app.command("set")(set_)
app.command("add")(add)
app.command("remove")(remove)
app.command("capture")(capture)
app.command("extcap", context_settings=EXTCAP_SETTINGS)(extcap)
app.command("graph")(graph)
app.command("doctor")(doctor)
app.command("up")(up)
app.command("down")(down)
app.command("ps")(ps)
app.command("plan")(plan)
app.command("apply")(apply)
app.command("console")(console)
app.command("logs")(logs)
app.add_typer(image_app, name="image")
app.add_typer(lab_app, name="lab")


def _print_version(wanted: bool) -> None:
    if wanted:
        from vbackend import __version__

        typer.echo(f"vbackend {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A user-space network backend for QEMU: joins guests to each other and to the host."""


def main() -> None:
    """The console script."""
    _prepare_streams()
    sys.exit(entry(sys.argv[1:]))


def entry(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status. Whatever is wrong is one line on stderr."""
    try:
        result = app(args=list(arguments), prog_name="vbackend", standalone_mode=False)
    except _UsageError as error:
        return _complain(2, *_usage(error))
    except typer.Abort:
        return _complain(1, "aborted")
    except ConfigError as error:
        return _complain(2, str(error))
    except VbackendError as error:
        return _complain(1, str(error))
    except OSError as error:
        return _complain(1, one_line(error))
    return result if isinstance(result, int) else 0


def _prepare_streams() -> None:
    """Closed standard streams become /dev/null: else the next socket has the number, and gets what is printed.

    Names of files are printed as they are, whatever bytes they have.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def _usage(error: Exception) -> tuple[str, str]:
    context = getattr(error, "ctx", None)
    path = "vbackend" if context is None else context.command_path
    text = getattr(error, "format_message", error.__str__)()
    return f"{path.removeprefix('vbackend').strip()}: {text}".removeprefix(": "), f"see `{path} --help`"


def _complain(status: int, text: str, hint: str = "") -> int:
    line = " ".join(text.split())
    if hint:
        line = f"{line.rstrip('.')}; {hint}"
    print(f"vbackend: {line}", file=sys.stderr)
    return status
