"""A program that stays in the namespaces a rootless vbackend leaves, and runs one helper there at a time.

Messages are JSON, one a packet of the Unix socket whose descriptor is the argument:

    asked {"run": [ARGUMENT...]}   answered {"pid": NUMBER} or {"error": TEXT}
    asked {"stop": true}           ends the helper; nothing when there is none
    told  {"ended": STATUS, "said": TEXT}, whenever the helper has ended

When vbackend has gone, however that was, the helper is killed and this ends too. Only of the standard library, and
started by its path, so that it stays small and imports nothing from a wrong place. `outside.py` is the other end.
"""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
from typing import IO, Any, Final

__all__ = ["Keeper", "main"]

_MOST: Final = 65536  # bytes of a message
_SAID: Final = 2000  # bytes of a helper's last words
_PATIENCE_S: Final = 2.0


class Keeper:
    """One vbackend's keeper; `serve` returns when vbackend has gone."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._selector = selectors.DefaultSelector()
        self._child: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None
        self._pidfd = -1

    def serve(self) -> None:
        self._selector.register(self._wire, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is not self._wire:
                        self._report()
                    elif not self._serve_one():
                        return
        finally:
            if self._child is not None:
                self._child.kill()
                self._report()
            self._selector.close()

    def _serve_one(self) -> bool:
        """One message; False: there will be none any more."""
        try:
            message = self._wire.recv(_MOST)
        except ConnectionError:
            return False
        if not message:
            return False
        asked = json.loads(message)
        if "run" in asked:
            self._run(asked["run"])
        elif self._child is not None:
            self._end()
        return True

    def _run(self, arguments: list[str]) -> None:
        if self._child is not None:
            self._tell({"error": "another helper runs"})
            return
        words = tempfile.TemporaryFile()  # noqa: SIM115, closed by _report
        try:
            child = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        except OSError as error:
            words.close()
            self._tell({"error": f"{arguments[0]}: {error.strerror}"})
            return
        self._child, self._words, self._pidfd = child, words, os.pidfd_open(child.pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        self._tell({"pid": child.pid})

    def _end(self) -> None:
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
        self._report()

    def _report(self) -> None:
        child, words = self._child, self._words
        if child is None or words is None:
            return
        status = child.wait()
        self._selector.unregister(self._pidfd)
        os.close(self._pidfd)
        with words:
            words.seek(max(words.seek(0, os.SEEK_END) - _SAID, 0))
            said = words.read().decode(errors="replace")
        self._child = self._words = None
        self._tell({"ended": status, "said": said})

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):  # the end of file is read next
            self._wire.send(json.dumps(message).encode())


def main(descriptor: str) -> None:
    with socket.socket(fileno=int(descriptor)) as wire:
        Keeper(wire).serve()


if __name__ == "__main__":
    main(sys.argv[1])
