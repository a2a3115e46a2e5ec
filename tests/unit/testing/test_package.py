"""vbackend.testing: all its names are there, and none is loaded before it is used."""

import subprocess
import sys

import pytest

import vbackend.testing


def test_every_name_is_there() -> None:
    for name in vbackend.testing.__all__:
        assert getattr(vbackend.testing, name).__name__ == name


def test_another_name_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = vbackend.testing.Nonsense


def test_the_plugin_loads_nothing_but_itself() -> None:
    """It is loaded at every start of pytest, also of projects that do not use it."""
    code = (
        "import sys; import vbackend.testing.plugin; "
        "print(*[name for name in sys.modules if name.startswith('vbackend.') or name == 'pydantic'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["vbackend.testing", "vbackend.testing.plugin"]
