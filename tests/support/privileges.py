"""Running a command as an ordinary user, wherever Python and the checkout lie."""

import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["as_user", "seeing_open_tun"]


@cache
def as_user(uid: int) -> tuple[str, ...]:
    """The command that becomes the one behind it, as user `uid` without capabilities.

    Only reading is kept where Python or the checkout lie in a folder of root's, as a clone below /root does.
    """

    def keeping(capability: str) -> tuple[str, ...]:
        return (
            *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"),
            *(f"--{which}={capability}" for which in ("bounding-set", "inh-caps", "ambient-caps")),
        )

    # Twice: setpriv itself has its capabilities still when it looks the program up.
    script = (
        "import subprocess, sys, vbackend.cli.main; subprocess.run([sys.executable, '-c', ''], check=True)"
    )
    tried = [*keeping("-all"), sys.executable, "-c", script]
    reachable = subprocess.run(tried, cwd="/", env={}, capture_output=True, check=False).returncode == 0
    return keeping("-all" if reachable else "-all,+dac_read_search")


def seeing_open_tun(node: Path) -> tuple[str, ...]:
    """The command that becomes the one behind it, as root, with a /dev/net/tun that everybody may open.

    Where it has mounts of its own, as behind `ip netns exec`, only it sees that. `node`: a path for the device.
    """
    return (
        *("sh", "-c"),
        'mknod "$0" c 10 200 && chmod 0666 "$0" && mount --bind "$0" /dev/net/tun && rm "$0" && exec "$@"',
        str(node),
    )
