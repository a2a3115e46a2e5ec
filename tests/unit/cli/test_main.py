"""Errors of the command line: exit status and exactly one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.run import VBACKEND
from tests.unit.cli.harness import one_line, served, vbackend
from vbackend import __version__
from vbackend.cli import main


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "Missing command; see `vbackend --help`"),
        ("shwo", "No such command 'shwo'"),
        ("--nope", "No such option: --nope"),
        ("run", "run: Missing argument 'PORT'; see `vbackend run --help`"),
        ("run --nope a b", "run: No such option: --nope"),
        ("run --workers x a b", "run: Invalid value for '--workers': "),
        ("run --workers 0 a b", "run: Invalid value for '--workers': "),
        ("run --queue-limit 65537 a b", "run: Invalid value for '--queue-limit': "),
        ("run --name", "Option '--name' requires an argument; see `vbackend --help`"),
        (
            "run x y",
            "port 'x': 'x' is no kind of port; there are stream, dgram, socket, vhost-user, vde, tap, tun",
        ),
        (
            "run stream:unix:/tmp/a",
            "PORT: 1 given, nobody to talk to; give at least two, or one with 'multi'",
        ),
        (
            "run --cable stream:unix:/tmp/a",
            "--cable: joins exactly two ports, 1 given; give two, or use --switch",
        ),
        ("run --cable tap:a tap:b tap:c", "--cable: joins exactly two ports, 3 given"),
        (
            "run --cable tap:a stream:unix:/tmp/a,multi",
            "port 'stream:unix:/tmp/a' takes many guests",
        ),
        ("run --name a/b tap:a tap:b", "--name is 'a/b'; use up to 63 letters"),
        ("run --ready-fd 987 tap:a tap:b", "--ready-fd 987: not an open file descriptor; pass the write end"),
        ("run --ready-fd -1 tap:a tap:b", "--ready-fd -1: not an open file descriptor"),
        ("run --ready-fd 99999999999 tap:a tap:b", "--ready-fd 99999999999: not an open file descriptor"),
        ("exec stream", "exec: no command; write it after --"),
        ("exec stream --", "exec: no command; write it after --"),
        ("exec stream,dial -- qemu", "port 'stream,dial': a NIC of this guest cannot dial or be multi"),
        ("exec stream,color=red -- qemu", "port 'stream,color=red': 'color' is no option of stream ports"),
        ("set", "set: Missing argument 'PORT'"),
        ("set a", "set: Missing argument 'CHANGE'"),
        ("set a upp", "change 'upp': not known; give up, down, queue=N, queue-bytes=N, rate=BITS"),
        ("add", "add: Missing argument 'PORT'"),
        ("add tpa:x", "port 'tpa:x': 'tpa' is no kind of port; did you mean 'tap'?"),
        ("remove", "remove: Missing argument 'PORT'"),
        ("show extra", "show: Got unexpected extra argument"),
        ("show --name ../x", "--name is '../x'; use up to 63"),
        ("args", "args: Missing argument 'PORT'"),
        ("args x", "port 'x': "),
        ("image", "image: Missing command; see `vbackend image --help`"),
        ("image build", "image build: Missing argument 'NAME'"),
    ],
)
def test_bad_arguments_exit_2_with_one_line(capsys: pytest.CaptureFixture[str], line: str, text: str) -> None:
    assert one_line(vbackend(capsys, *line.split()), 2).startswith(text)


@pytest.mark.parametrize("line", ["show", "set a up", "add tap:x", "remove a", "capture a -w /dev/null"])
def test_no_backend_exits_1_with_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    expected = (
        "control socket /nonexistent/vbackend/default.sock: nobody serves it; start `vbackend run` first"
    )
    assert one_line(vbackend(capsys, *line.split()), 1) == expected


@pytest.mark.parametrize("line", ["--help", "-h", "run --help", "exec -h", "show -h", "image build -h"])
def test_help_is_plain_text(capsys: pytest.CaptureFixture[str], line: str) -> None:
    outcome = vbackend(capsys, *line.split())
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("Usage: vbackend")
    assert outcome.out.isascii()


def test_the_hosts_refusal_is_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a.sock"
    ports = [f"stream:unix:{path}", f"stream:unix:{tmp_path}/b.sock"]
    outcome = vbackend(capsys, "run", "--control", str(tmp_path / "control"), *ports)
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == (
        f"vbackend: {path}: cannot bind: No such file or directory; make its folder first"
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = vbackend(capsys, "--version")
    assert (outcome.status, outcome.out, outcome.err) == (0, f"vbackend {__version__}\n", "")


def test_main_exits_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vbackend", "--nope"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2


def _closing(redirections: str, *words: str) -> list[str]:
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *VBACKEND, *words]


@pytest.mark.parametrize("line", ["show", "show --json", "capture --count 1", "capture --interfaces"])
def test_stdout_may_be_closed(tmp_path: Path, line: str) -> None:
    path = str(tmp_path / "x")
    with served(path):
        command = _closing(">&-", *line.split(), "--control", path)
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr in ("", "2 packets captured, 3 lost\n")


def test_a_closed_stream_is_no_socket_of_the_guest(tmp_path: Path) -> None:
    code = "import os, sys; open(sys.argv[1], 'w').write(str([os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)]))"
    said = tmp_path / "said"
    command = _closing("<&- >&- 2>&-", "exec", "--", sys.executable, "-c", code, str(said))
    subprocess.run(command, check=True)
    assert said.read_text() == str(["/dev/null"] * 3)


def test_names_of_files_are_printed_as_they_are() -> None:
    name = b"/tmp/\xff.sock"
    command = [*VBACKEND, "args", "stream:unix:" + os.fsdecode(name)]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, capture_output=True, env=strict, check=True)
    assert b"addr.path=" + name in done.stdout


def test_completion_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--install-completion" in vbackend(capsys, "--help").out


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    code = (
        "import sys\nimport vbackend.cli.main\n"
        "heavy = ('asyncio', 'pydantic', 'rich', 'qemu', 'pyroute2', 'vbackend._native')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
