import pytest

from vbackend import errors


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "one_line"])
def test_every_error_is_caught_by_the_base_class(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.VbackendError)


def test_wrong_arguments_are_value_errors() -> None:
    assert issubclass(errors.ConfigError, ValueError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.HostError("two\n  lines"), "two lines"),
        (TimeoutError(), "TimeoutError"),
        (OSError(98, "cannot listen on it: in use"), "cannot listen on it: in use"),
        (FileNotFoundError(2, "No such file", "/a"), "/a: No such file"),
    ],
)
def test_one_line(error: Exception, text: str) -> None:
    assert errors.one_line(error) == text
