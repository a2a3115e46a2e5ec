"""The small backend of the tests and the real one both fit what the control commands need."""

from tests.unit.control.fakes import FakeBackend
from vbackend.control.api import ControlledBackend


def test_the_tests_backend_fits() -> None:
    backend: ControlledBackend = FakeBackend()
    assert backend.snapshot().name == "default"


def test_the_real_backend_fits() -> None:
    from vbackend.backend import Backend

    backend: ControlledBackend = Backend(name="x")
    for name in ("snapshot", "add_port", "remove_port", "set_port", "subscribe"):
        assert callable(getattr(backend, name))
