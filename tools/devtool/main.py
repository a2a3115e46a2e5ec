"""Sub-commands of `tools/dev` and their arguments."""

import argparse
import sys
from collections.abc import Sequence

from tools.devtool import sanitize, setup, stages
from tools.devtool.run import DevError

__all__ = ["main", "parser"]

# name -> (help, whether what follows goes to the tool behind it)
COMMANDS = {
    "setup": ("install what is missing: Debian packages (as root), .venv, the engine", False),
    "build": ("build the engine into the tree", False),
    "upgrade": ("take the newest Python packages and pin them in tools/constraints.txt", False),
    "fmt": ("format Python and Rust", False),
    "lint": ("formatting, ruff, import rules, clippy", False),
    "types": ("mypy --strict, and the engine's stub against the engine", False),
    "check": ("lint, types, Rust tests and the Python tests that need neither root nor guests", False),
    "test": ("everything CI runs; with arguments: pytest with these", True),
    "sanitize": ("the hostile tests against an engine under AddressSanitizer", True),
    "bench": ("measure: see tests/bench/README.md", True),
    "fuzz": ("look for new inputs that break a parser: see tests/fuzz/README.md", True),
    "demo": ("two guests and the host on one switch; --keep leaves them running", True),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="tools/dev", description=__doc__)
    subs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, _) in COMMANDS.items():
        sub = subs.add_parser(name, help=text, description=text)
        if name == "build":
            sub.add_argument("--dev", action="store_true", help="unoptimised; benches refuse it")
    return top


def main(argv: Sequence[str]) -> int:
    passes_on = bool(argv) and argv[0] in COMMANDS and COMMANDS[argv[0]][1]
    args = parser().parse_args(argv[:1] if passes_on else argv)
    try:
        _dispatch(args, argv[1:] if passes_on else ())
    except DevError as error:
        print(f"tools/dev {args.command}: {error}", file=sys.stderr)
        return error.status
    return 0


def _dispatch(args: argparse.Namespace, rest: Sequence[str]) -> None:
    match args.command:
        case "setup":
            setup.setup()
        case "build":
            setup.build_engine(dev=args.dev)
        case "upgrade":
            setup.upgrade()
        case "fmt":
            stages.fmt()
        case "lint":
            stages.lint()
        case "types":
            stages.types()
        case "check":
            setup.setup()
            stages.check()
        case "test":
            setup.setup()
            stages.test(rest)
        case "sanitize":
            setup.setup()
            sanitize.sanitize(rest)
        case "bench":
            setup.setup()
            stages.bench(rest)
        case "fuzz":
            setup.setup()
            stages.fuzz(rest)
        case "demo":
            setup.setup()
            stages.demo(rest)
        case other:
            raise DevError(f"no such command: {other}", 2)
