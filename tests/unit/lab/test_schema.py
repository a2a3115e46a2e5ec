"""The JSON Schema of lab files, and its words."""

import pytest

from vbackend.lab.model import Where
from vbackend.lab.schema import expected, node_at, properties, schema


def test_it_is_of_a_file() -> None:
    found = schema()
    assert found["$schema"].endswith("2020-12/schema")
    assert "required" not in found  # the name may be the file's
    assert found["additionalProperties"] is False
    assert found["$defs"]["Switch"]["properties"]["dns"]["anyOf"][0] == {"type": "boolean"}
    assert found["$defs"]["Nic"]["properties"]["queues"]["description"].startswith("Pairs")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ((), "a table"),
        (("name",), "a string"),
        (("vm", "r1"), "a table"),
        (("vm", "r1", "cpus"), "an integer from 1 to 255"),
        (("vm", "r1", "memory"), 'a string such as "256M"'),
        (("vm", "r1", "machine"), "a string that matches ^[A-Za-z0-9._,=-]+$"),
        (("vm", "r1", "persistent"), "true or false"),
        (("vm", "r1", "args"), "an array of strings"),
        (("vm", "r1", "args", 7), "a string"),
        (("vm", "r1", "files", "/etc/x"), "a string"),
        (("vm", "r1", "nic", "eth0", "transport"), 'one of "stream", "vhost-user"'),
        (("cable",), "an array of tables"),
        (("cable", 0, "ends"), "an array of two strings"),
        (("cable", 0, "ends", 1), "a string"),
        (("cable", 0, "loss"), 'a string or a number such as "1%" or 0.01'),
        (("cable", 0, "carrier"), "a string or a number or false"),
        (("switch", "lan", "ra"), "true or false or a table"),
        (("nothing",), "nothing"),
        (("cable", 0, "ends", 2), "nothing"),
    ],
)
def test_what_is_expected(where: Where, words: str) -> None:
    assert expected(where) == words


def test_keys_of_tables() -> None:
    assert properties(()) == ("name", "vm", "switch", "cable", "capture")
    assert properties(("switch", "lan", "dhcp")) == ("range", "lease", "router", "hosts")
    assert properties(("name",)) == ()
    assert node_at(("vm", "r1", "what")) == []
