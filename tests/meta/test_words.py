"""Nothing in the repository belongs to one machine or is left for later, and what it names exists."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from tests.meta.tree import ROOT, sources

CODE_MAP = ROOT / "vbackend" / "ARCHITECTURE.md"
PUBLIC_HOSTS = {
    "pypi.org",
    "files.pythonhosted.org",
    "crates.io",
    "index.crates.io",
    "static.crates.io",
    "github.com",
}
TEXT = [path for path in sources() if path.suffix not in (".pcap", ".pcapng", ".bin")]


def local_words() -> set[str]:
    """What only this machine knows: its home, this checkout, and the package indexes it is set up with."""
    words = {str(Path.home()) + "/"}
    if len(ROOT.parts) > 2:
        words.add(str(ROOT))
    told = [
        value
        for key, value in os.environ.items()
        if re.fullmatch(r"(PIP|UV|CARGO)_\w*(INDEX|URL|REGISTR)\w*", key)
    ]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    told += re.findall(r"index-url='([^']+)'", pip.stdout)
    cargo_home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    for config in (cargo_home / "config.toml", cargo_home / "config"):
        if config.is_file():
            table = tomllib.loads(config.read_text())
            told += [
                str(source[k])
                for source in table.get("source", {}).values()
                for k in source
                if k == "registry"
            ]
            told += [str(registry.get("index", "")) for registry in table.get("registries", {}).values()]
    hosts = {urlsplit(url.removeprefix("sparse+")).hostname for url in told}
    return words | {host for host in hosts if host and host not in PUBLIC_HOSTS}


def test_no_words_of_one_machine() -> None:
    words = local_words()
    found = [f"{path}: {w}" for path in TEXT for w in words if w in (ROOT / path).read_text(errors="replace")]
    assert not found


def test_no_notes_to_self() -> None:
    note = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    code = [path for path in TEXT if path.suffix in (".py", ".rs", ".pyi", ".toml", ".sh")]
    found = [f"{path}: {word}" for path in code for word in note.findall((ROOT / path).read_text())]
    assert not found, "unfinished work"


def test_lock_file_names_the_public_registry_only() -> None:
    lock = tomllib.loads((ROOT / "vbackend/native/Cargo.lock").read_text())
    origins = {package["source"] for package in lock["package"] if "source" in package}
    assert origins == {"registry+https://github.com/rust-lang/crates.io-index"}


def test_code_map_names_what_exists() -> None:
    """Every path in backquotes exists: from the root, vbackend/, native/, or, being a bare name, anywhere."""
    named = re.findall(r"`([\w.*{},/-]+(?:/|\.(?:pyi?|rs|md|toml)))`", CODE_MAP.read_text())
    assert named, "ARCHITECTURE.md has no code map"
    places = (ROOT, ROOT / "vbackend", ROOT / "vbackend/native")
    bare = {part for path in sources() for part in path.parts}
    missing = [n for n in named if n not in bare and not any(any(place.glob(_one(n))) for place in places)]
    assert not missing, f"ARCHITECTURE.md names what is not there: {missing}"


def _one(name: str) -> str:
    return re.sub(r"\{[^}]*\}", "*", name.rstrip("/"))
