"""Error classes, split by who must act: the caller, the peer, or the host's owner.

Host errors that carry an errno stay `OSError`; these classes are for everything else.
"""

__all__ = ["ConfigError", "ControlError", "HostError", "PeerError", "VbackendError", "one_line"]


class VbackendError(Exception):
    """Base of all errors vbackend raises on purpose; its text is one line for the user."""


class ConfigError(VbackendError, ValueError):
    """The caller asked for something that makes no sense; says which argument, what is wrong, what to give."""


class PeerError(VbackendError):
    """A guest, a client or another peer broke its protocol; that session is over, the port is not."""


class HostError(VbackendError):
    """The host lacks something (a privilege, a device, a program); says what and how to get it."""


class ControlError(VbackendError):
    """The control socket answered with an error, or nobody serves it."""


def one_line(error: BaseException) -> str:
    """What a user is told of any error; of an OSError without the number that only programs want."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(text.split()) or type(error).__name__
