"""The repository as the meta tests see it: the files git tracks, or would if they were added now."""

import ast
import subprocess
from functools import cache
from pathlib import Path

__all__ = ["ROOT", "imports", "sources"]

ROOT = Path(__file__).resolve().parent.parent.parent


@cache
def sources() -> tuple[Path, ...]:
    """Paths relative to the root of all files that are in the repository and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return tuple(
        sorted(path for name in listed.split("\0") if name and (ROOT / (path := Path(name))).is_file())
    )


def imports(path: Path) -> set[str]:
    """Full dotted names of everything a Python file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(), str(path))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.parts[: len(path.parent.parts) - node.level + 1] if node.level else ()
            module = ".".join((*package, *([node.module] if node.module else [])))
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found
