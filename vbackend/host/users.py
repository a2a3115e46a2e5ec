"""Numbers of users and groups of this host."""

import grp
import pwd

from vbackend.errors import ConfigError

__all__ = ["group_id", "user_id"]


def user_id(owner: str) -> int:
    """A user's number from its name or number. ConfigError: there is no such user."""
    if owner.isdigit():
        return int(owner)
    try:
        return pwd.getpwnam(owner).pw_uid
    except KeyError:
        raise ConfigError(f"owner={owner}: there is no such user; give a name or a number") from None


def group_id(group: str) -> int:
    """A group's number from its name or number. ConfigError: there is no such group."""
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"group={group}: there is no such group; give a name or a number") from None
