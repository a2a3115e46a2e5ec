"""The single values inside a PORT argument: addresses, paths, names, numbers.

Pure. Each function takes the name of what it reads and the text, and returns the value or raises `ValueError`
with one line: what is wrong and what would be right; `parse.py` adds which argument it was.
"""

import os
import re
from collections.abc import Callable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Final, TypeVar

from vbackend.ports.spec import Address, TcpAddress, UnixAddress

__all__ = [
    "UNIX_PATH_MAX",
    "address",
    "cidr",
    "device_name",
    "file_mode",
    "group",
    "host_ports",
    "ipv4",
    "mac_address",
    "multicast_group",
    "netns_name",
    "number",
    "one_of",
    "port_name",
    "unix_address",
    "user",
]

W = TypeVar("W", bound=str)

UNIX_PATH_MAX: Final = 107  # bytes; sizeof(sun_path) is 108 with the final NUL (linux/un.h)
_IFNAME_MAX: Final = 15  # IFNAMSIZ - 1 (linux/if.h)

_PORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")
_MODE = re.compile(r"0?[0246]{3}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?|[0-9]{1,10}")


def number(low: int, high: int) -> Callable[[str, str], int]:
    """A reader of decimal numbers from `low` to `high`, both included."""

    def read(what: str, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
            raise ValueError(f"{what} is {text!r}; give a number from {low} to {high}")
        return int(text)

    return read


def one_of(known: Sequence[W]) -> Callable[[str, str], W]:
    """A reader of one of these words."""

    def read(what: str, text: str) -> W:
        for word in known:
            if word == text:
                return word
        raise ValueError(f"{what} is {text!r}; give one of {', '.join(known)}")

    return read


def port_name(what: str, text: str) -> str:
    if not _PORT_NAME.fullmatch(text):
        raise ValueError(
            f"{what} is {text!r}; use up to 63 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return text


def mac_address(what: str, text: str) -> bytes:
    """Six bytes of a station's address: neither a group's nor all zero."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"{what} is {text!r}; write six hexadecimal pairs, e.g. 52:54:00:12:34:56")
    mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if mac[0] & 1:
        raise ValueError(
            f"{what} {text} is a group address (lowest bit of the first byte); a port needs a station's"
        )
    if mac == bytes(6):
        raise ValueError(f"{what} {text} is no station's address; leave the key out to allow any")
    return mac


def unix_address(what: str, text: str) -> UnixAddress:
    """A socket's path, or "@name" in the abstract namespace."""
    if text in ("", "@"):
        raise ValueError(f"{what} is empty; give a path such as /tmp/a.sock, or @NAME for an abstract name")
    if "\0" in text:
        raise ValueError(f"{what} {text!r} has a NUL byte in it; give a plain path")
    try:
        length = len(os.fsencode(text))
    except UnicodeEncodeError:
        raise ValueError(f"{what} {text!r} cannot be written as a file name; give a plain path") from None
    if length > UNIX_PATH_MAX:
        raise ValueError(f"{what} is {length} bytes long; a Unix socket's name can have {UNIX_PATH_MAX}")
    return UnixAddress(text)


def host_ports(
    form: str, text: str, *, pairs: int, ipv4_only: str | None = None, any_port: bool = False
) -> list[TcpAddress]:
    """`pairs` times HOST:PORT, joined by colons; `form` is how it should look.

    `ipv4_only`: refuse IPv6 and recommend this instead. `any_port`: 0, the kernel's choice, is allowed.
    """
    words = _split_colons(form, text)
    if len(words) != 2 * pairs:
        hint = ", an IPv6 address in brackets" if len(words) > 2 * pairs else ""
        raise ValueError(f"{text!r} is not {form}; write {form}{hint}")
    read_port = number(0 if any_port else 1, 65_535)
    found = [
        TcpAddress(_host(form, words[at], ipv4_only), read_port("the port number", words[at + 1]))
        for at in range(0, len(words), 2)
    ]
    if len({version for version in map(_literal_version, found) if version}) > 1:
        raise ValueError(f"{text!r} mixes IPv4 and IPv6; give both ends the same version")
    return found


def multicast_group(form: str, text: str) -> tuple[str, int]:
    """GROUP:PORT with an IPv4 multicast group (QEMU knows no other)."""
    (found,) = host_ports(form, text, pairs=1, ipv4_only="an IPv4 group such as 230.0.0.1")
    try:
        good = IPv4Address(found.host).is_multicast
    except AddressValueError:
        good = False
    if not good:
        raise ValueError(
            f"{found.host!r} is not a multicast group; give one from 224.0.0.0 to 239.255.255.255"
        )
    return found.host, found.port


def ipv4(what: str, text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise ValueError(f"{what} is {text!r}; give an IPv4 address of this host, e.g. 127.0.0.1") from None


def cidr(what: str, text: str) -> Address:
    """An address with its prefix length."""
    found = _interface(what, text, "an address with a prefix, e.g. 10.0.0.1/24 or fd00::1/64")
    if "/" not in text:
        raise ValueError(
            f"{what} {text!r} has no prefix length; write {found.ip}/{24 if found.version == 4 else 64}"
        )
    return found


def address(what: str, text: str) -> Address:
    """An address; its prefix length may be left out."""
    return _interface(what, text, "an IPv4 or IPv6 address, e.g. 10.0.0.1")


def device_name(what: str, text: str) -> str:
    """A network interface's name, by the kernel's rules (net/core/dev.c), without its % templates."""
    good = 0 < len(text) <= _IFNAME_MAX and text.isascii() and text.isprintable() and text not in (".", "..")
    if not good or any(character in "/:% " for character in text):
        raise ValueError(
            f"{what} {text!r} cannot be an interface's name; use 1 to {_IFNAME_MAX} letters and digits"
        )
    return text


def netns_name(what: str, text: str) -> str:
    """A name under /run/netns."""
    good = (
        0 < len(text) <= 255
        and text.isascii()
        and text.isprintable()
        and "/" not in text
        and text not in (".", "..")
    )
    if not good:
        raise ValueError(f"{what} {text!r} cannot be a namespace's name; give one that `ip netns list` shows")
    return text


def user(what: str, text: str) -> str:
    if not _USER.fullmatch(text):
        raise ValueError(f"{what} {text!r} is neither a user's name nor a number")
    return text


def group(what: str, text: str) -> str:
    if not _USER.fullmatch(text):
        raise ValueError(f"{what} {text!r} is neither a group's name nor a number")
    return text


def file_mode(what: str, text: str) -> int:
    """Permissions of a socket, in octal: who may read and write; nobody executes one."""
    if not _MODE.fullmatch(text):
        raise ValueError(f"{what} is {text!r}; write octal digits of read and write, e.g. 0660")
    return int(text, 8)


def _interface(what: str, text: str, right: str) -> Address:
    try:
        found = ip_interface(text)
    except ValueError:
        raise ValueError(f"{what} is {text!r}; give {right}") from None
    if "%" in text:
        raise ValueError(f"{what} {text!r} names a zone; leave the part from '%' away")
    return found


def _split_colons(form: str, text: str) -> Sequence[str]:
    """Split at the colons outside of brackets."""
    words, depth = [""], 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth not in (0, 1):
            raise ValueError(f"the brackets in {text!r} do not match; write {form}")
        if character == ":" and depth == 0:
            words.append("")
        else:
            words[-1] += character
    if depth:
        raise ValueError(f"the brackets in {text!r} do not match; write {form}")
    return words


def _host(form: str, text: str, ipv4_only: str | None) -> str:
    if text.startswith("[") and text.endswith("]"):
        try:
            found = str(IPv6Address(text[1:-1]))
            if not _HOST_NAME.fullmatch(found.partition("%")[2] or "none"):
                raise AddressValueError
        except AddressValueError:
            raise ValueError(
                f"{text!r} is not an IPv6 address in brackets; write for instance [::1]"
            ) from None
        if ipv4_only is not None:
            raise ValueError(f"{text} is IPv6, which QEMU takes only in other forms; use {ipv4_only}")
        return found
    if not text:
        raise ValueError(f"the host is missing; write {form}, e.g. 127.0.0.1, or 0.0.0.0 for all addresses")
    if set(text) <= set("0123456789."):
        try:
            return str(IPv4Address(text))
        except AddressValueError:
            raise ValueError(f"{text!r} is not an IPv4 address; write four numbers from 0 to 255") from None
    if not _HOST_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a host; give an IPv4 address, [IPv6] in brackets or a host name")
    return text


def _literal_version(place: TcpAddress) -> int | None:
    try:
        return ip_address(place.host).version
    except ValueError:
        return None
