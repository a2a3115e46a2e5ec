import pytest

from vbackend import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_caught_by_the_base_class(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.VbackendError)


def test_wrong_arguments_are_value_errors() -> None:
    assert issubclass(errors.ConfigError, ValueError)
