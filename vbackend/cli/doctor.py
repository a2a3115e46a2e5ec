"""`vbackend doctor`: what this host can do, and how to get what it cannot."""

import typer

__all__ = ["doctor"]


def doctor() -> None:
    """Check what this host offers: devices, privileges, QEMU; exit 1 when something essential lacks."""
    from vbackend.capture.filter import libpcap_version
    from vbackend.cli.render import findings_view, terminal
    from vbackend.dataplane import build_info
    from vbackend.host.probe import findings
    from vbackend.qemu.accel import probe_kvm
    from vbackend.qemu.version import qemu_version

    def kvm() -> tuple[bool, str]:
        probe = probe_kvm()
        return probe.works, probe.detail

    found = findings(
        qemu=lambda: qemu_version().described(), kvm=kvm, engine=build_info, libpcap=libpcap_version
    )
    terminal().print(findings_view(found))
    if any(finding.essential and not finding.ok for finding in found):
        raise typer.Exit(1)
