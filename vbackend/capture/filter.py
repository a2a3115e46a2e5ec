"""Filters in libpcap's language, compiled by libpcap itself (through ctypes) into classic BPF.

The engine runs the program (native/proto/src/capture/bpf.rs). Rule: libpcap is loaded when it is first wanted; a host
without it can do everything but filter. Names of hosts in a filter are looked up, so compiling may wait for DNS:
callers with an event loop use a thread.
"""

import ctypes
from contextlib import suppress
from functools import cache
from typing import Any, Final

from vbackend.capture.pcapng import DEFAULT_SNAPLEN, LinkType
from vbackend.errors import ConfigError, HostError

__all__ = ["FrameFilter", "Instruction", "compile_filter", "libpcap_version"]

Instruction = tuple[int, int, int, int]  # code, jt, jf, k: struct bpf_insn

_SONAME: Final = "libpcap.so.0.8"
_NETMASK_UNKNOWN: Final = 0xFFFF_FFFF  # PCAP_NETMASK_UNKNOWN of pcap/pcap.h
_DLT: Final = {LinkType.RAW: 12}  # where libpcap's DLT_ value on Linux is not the file's LINKTYPE_ value
_LONGEST: Final = 16_384  # bytes of an expression


class _Insn(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint), ("insns", ctypes.POINTER(_Insn))]


@cache
def _library() -> Any:  # Any: ctypes makes the functions as they are named
    try:
        library = ctypes.CDLL(_SONAME)
    except OSError:
        raise HostError(f"filter: there is no {_SONAME}; install libpcap (Debian: libpcap0.8)") from None
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
    library.pcap_compile.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint32,
    ]
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = [ctypes.c_void_p]
    library.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
    library.pcap_close.argtypes = [ctypes.c_void_p]
    library.bpf_filter.argtypes = [ctypes.POINTER(_Insn), ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint]
    library.bpf_filter.restype = ctypes.c_uint
    library.pcap_lib_version.restype = ctypes.c_char_p
    return library


def libpcap_version() -> str:
    """What libpcap says of itself. HostError: it is not installed."""
    return str(_library().pcap_lib_version().decode(errors="replace"))


def compile_filter(expression: str, link_type: LinkType, snaplen: int) -> tuple[Instruction, ...]:
    """The program that accepts what `expression` describes on packets of `link_type`.

    ConfigError: not an expression of libpcap's, or none for this link type. HostError: libpcap is not installed.
    """
    text = _encoded(expression)
    library = _library()
    handle = library.pcap_open_dead(_DLT.get(link_type, link_type), snaplen)
    if not handle:
        raise MemoryError("pcap_open_dead")
    try:
        program = _Program()
        if library.pcap_compile(handle, program, text, 1, _NETMASK_UNKNOWN) != 0:
            why = library.pcap_geterr(handle).decode(errors="replace")
            raise ConfigError(f"filter {expression!r}: {why}; see man pcap-filter for the language")
        try:
            found = [program.insns[index] for index in range(program.len)]
            return tuple((one.code, one.jt, one.jf, one.k) for one in found)
        finally:
            library.pcap_freecode(program)
    finally:
        library.pcap_close(handle)


def _encoded(expression: str) -> bytes:
    with suppress(UnicodeEncodeError):
        text = expression.encode()
        if b"\0" not in text and len(text) <= _LONGEST:
            return text
    raise ConfigError(f"filter {expression[:40]!r}: too long, or not text; see man pcap-filter")


class FrameFilter:
    """A filter for Ethernet frames that are looked at one by one, here and not in the engine."""

    def __init__(self, expression: str) -> None:
        """ConfigError, HostError as `compile_filter`."""
        program = compile_filter(expression, LinkType.ETHERNET, DEFAULT_SNAPLEN)
        self._program: Final = (_Insn * len(program))(*(_Insn(*one) for one in program))

    def matches(self, frame: bytes) -> bool:
        return bool(_library().bpf_filter(self._program, frame, len(frame), len(frame)))
