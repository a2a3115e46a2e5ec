"""vbackend/testing/plugin.py: it is a plugin of pytest. What its fixtures do is tested with what they give."""

import pytest


def test_it_is_loaded_by_its_entry_point(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.pluginmanager.get_plugin("vbackend") is not None
