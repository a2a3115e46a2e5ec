"""Figures of bulk TCP, and how they are shown."""

from rich.console import Console

from tests.bench import bulk
from tests.bench.bulk import QEMU_PASST, QEMU_TAP, QEMU_VHOST, UML_PAIR, Transfer


def transfer(link: str, number: int, megabytes: int, *, sends: bool = True, backend_ns: int = 0) -> Transfer:
    """Of one second; QEMU has used a second of CPU time where there is one."""
    qemu_ns = 0 if link == UML_PAIR else 1_000_000_000
    return Transfer(link, sends, number, megabytes * 1_000_000, 1.0, backend_ns, backend_ns + qemu_ns)


def test_ratio_is_to_qemu_in_the_same_round_and_direction() -> None:
    transfers = [
        *(transfer(QEMU_VHOST, n, mb) for n, mb in ((1, 300), (2, 30), (3, 300))),
        *(transfer(QEMU_TAP, n, mb) for n, mb in ((1, 200), (2, 20), (3, 100))),
        transfer(QEMU_VHOST, 1, 100, sends=False),
        transfer(QEMU_TAP, 1, 200, sends=False),
    ]
    flows = bulk.summarise(transfers)
    assert [(f.link, f.sends, f.ratio, f.meets_target) for f in flows] == [
        (QEMU_VHOST, True, 1.5, True),
        (QEMU_TAP, True, 1.0, None),
        (QEMU_VHOST, False, 0.5, False),
        (QEMU_TAP, False, 1.0, None),
    ]


def test_passt_is_a_reference_without_a_target() -> None:
    passt, _ = bulk.summarise(
        [transfer(QEMU_PASST, 1, 500, backend_ns=200_000_000), transfer(QEMU_TAP, 1, 250)]
    )
    assert (passt.backend_cost, passt.all_cost, passt.ratio, passt.meets_target) == (0.4, 2.4, 2.0, None)


def test_costs_are_per_gigabyte_of_payload() -> None:
    pair, vhost, tap = bulk.summarise(
        [
            transfer(UML_PAIR, 1, 500, backend_ns=200_000_000),
            transfer(QEMU_VHOST, 1, 500, backend_ns=200_000_000),
            transfer(QEMU_TAP, 1, 500),
        ]
    )
    assert (pair.rate, pair.backend_cost, pair.all_cost, pair.ratio) == (4e9, 0.4, None, None)
    assert (vhost.backend_cost, vhost.all_cost) == (0.4, 2.4)
    assert (tap.backend_cost, tap.all_cost) == (None, 2.0)


def test_nothing_received_is_no_figure() -> None:
    assert bulk.summarise([transfer(UML_PAIR, 1, 0)]) == ()
    (flow,) = bulk.summarise([transfer(QEMU_VHOST, 1, 100), transfer(QEMU_TAP, 1, 0)])
    assert (flow.ratio, flow.meets_target) == (None, None)


def test_table_and_json() -> None:
    flows = bulk.summarise([transfer(QEMU_VHOST, 1, 150, backend_ns=75_000_000), transfer(QEMU_TAP, 1, 100)])
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(bulk.table(flows))
    shown = [line.replace("│", "").split() for line in capture.get().splitlines()]
    assert [*QEMU_VHOST.split(), "sends", "1200", "0.50", "7.17", "1.50", "met"] in shown
    assert [*QEMU_TAP.split(), "sends", "800", "-", "10.00", "1.00"] in shown
    assert bulk.to_json(flows)[0] == {
        "link": QEMU_VHOST,
        "guest_sends": True,
        "bits_per_second": 1_200_000_000,
        "backend_cpu_s_per_gb": 0.5,
        "cpu_s_per_gb_with_qemu": 7.167,
        "ratio_to_qemu_tap": 1.5,
        "meets_target": True,
    }
