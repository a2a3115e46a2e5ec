"""Building and running the fuzz targets: libFuzzer, guided by coverage, on the stable Rust toolchain.

Not a fuzzer itself: it puts together the commands of one run. The targets are plain functions of the crate
vbackend-proto (`vbackend_proto::testing`), and what they are fed first is in `corpora/`. Nothing here is written
into the tree but by `--merge`: new inputs go to `target/fuzz`, findings to `artifacts/fuzz`.
"""

import argparse
import os
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tools.devtool.run import ROOT, DevError, host_triple, output, run

__all__ = ["CORPORA", "FOLDER", "build_command", "main", "parser", "run_command", "targets"]

FOLDER = Path("tests/fuzz")
CORPORA = FOLDER / "corpora"
BUILD = Path("target/fuzz")
FINDINGS = Path("artifacts/fuzz")

MAX_LEN = 1024  # bytes of an input: some hundred steps of the adapter target

# The instrumentation that libFuzzer reads (LLVM's SanitizerCoverage), as cargo-fuzz asks for it. No sanitizer, which
# would need a nightly toolchain: the code under test forbids `unsafe`.
RUSTFLAGS = " ".join(
    (
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
        "-Ccodegen-units=1",
        "--cfg=fuzzing",
    )
)


def targets() -> list[str]:
    """The names of all targets, from `Cargo.toml`."""
    manifest = tomllib.loads((ROOT / FOLDER / "Cargo.toml").read_text())
    return [binary["name"] for binary in manifest["bin"]]


def build_command(triple: str) -> list[str]:
    """Build all targets. Naming the triple keeps the instrumentation out of build scripts."""
    manifest = str(FOLDER / "Cargo.toml")
    return [
        *("cargo", "build", "--release", "--locked", "--manifest-path", manifest),
        *("--target-dir", str(BUILD), "--target", triple),
    ]


def run_command(target: str, triple: str, options: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """One run of a built target. The first folder receives new inputs, all are read."""
    binary = BUILD / triple / "release" / target
    return [str(binary), f"-max_len={MAX_LEN}", *options, *map(str, folders)]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="tools/dev fuzz", description="look for inputs that break a promise")
    top.add_argument(
        "target", nargs="*", help=f"of {', '.join(targets())}; default: all, one after the other"
    )
    top.add_argument("--seconds", type=int, default=60, metavar="N", help="per target (default: %(default)s)")
    top.add_argument("--jobs", type=int, default=1, metavar="N", help="processes per target")
    doing = top.add_mutually_exclusive_group()
    doing.add_argument("--replay", action="store_true", help="only feed the corpora once")
    doing.add_argument("--merge", action="store_true", help="add to the corpora what earlier runs found")
    return top


def main(argv: Sequence[str]) -> None:
    """Build, then run what the arguments name.

    Raises `DevError` when a tool is missing, the build fails, or a promise is broken.
    """
    args = parser().parse_args(argv)
    chosen = args.target or targets()
    if unknown := set(chosen) - set(targets()):
        raise DevError(
            f"no fuzz target {', '.join(sorted(unknown))}: there are {', '.join(targets())}", status=2
        )
    if lack := missing_tools():
        raise DevError(lack)
    triple = host_triple(output(["rustc", "-vV"]))
    run(build_command(triple), env={"RUSTFLAGS": RUSTFLAGS})
    for target in chosen:
        found, findings, kept = BUILD / "corpora" / target, FINDINGS / target, CORPORA / target
        for folder in (found, findings):
            (ROOT / folder).mkdir(parents=True, exist_ok=True)
        options = [f"-artifact_prefix={findings}{os.sep}"]
        folders = [found, kept]
        if args.replay:
            options.append("-runs=0")
            folders = [kept]
        elif args.merge:
            # The fewest inputs that reach every edge, not each count of it: what is kept in the tree is small.
            options += ["-set_cover_merge=1", "-use_counters=0"]
            folders = [kept, found]
        else:
            options += [f"-max_total_time={args.seconds}", "-print_final_stats=1"]
            if args.jobs > 1:
                options.append(f"-fork={args.jobs}")
        run(run_command(target, triple, options, folders))


def missing_tools() -> str | None:
    """What the build needs and does not find; None: nothing."""
    if shutil.which("cargo") is None:
        return "needs Rust: `tools/dev setup` says how to get it"
    if shutil.which("c++") is None:
        return "needs a C++ compiler, because libFuzzer is C++: apt install g++"
    return None
