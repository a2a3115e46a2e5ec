"""What an ELF program needs to start: its interpreter and its shared libraries.

Pure, and only as much of ELF (System V gABI) as that takes: 64-bit little-endian files with program headers.
"""

import struct
from dataclasses import dataclass

__all__ = ["Needs", "read_needs"]

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
DYNAMIC = struct.Struct("<qQ")


@dataclass(frozen=True, slots=True)
class Needs:
    interpreter: str | None  # a path, as /lib64/ld-linux-x86-64.so.2
    libraries: tuple[str, ...]  # sonames, as libc.so.6


def read_needs(data: bytes) -> Needs | None:
    """What the ELF file in `data` needs; None when it is no ELF file.

    ValueError for an ELF file that is not 64-bit little-endian or is cut short.
    """
    if not data.startswith(b"\x7fELF"):
        return None
    if data[4:6] != b"\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        return _read(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"ELF file is cut short: {error}") from error


def _read(data: bytes) -> Needs:
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [PROGRAM_HEADER.unpack_from(data, table + index * size) for index in range(count)]
    interpreter, needed, strings = None, [], 0
    for kind, _, offset, _, _, length, _, _ in headers:
        if kind == PT_INTERP:
            interpreter = _string(data, offset)
        elif kind == PT_DYNAMIC:
            for at in range(offset, offset + length, DYNAMIC.size):
                tag, value = DYNAMIC.unpack_from(data, at)
                if tag == DT_NULL:
                    break
                if tag == DT_NEEDED:
                    needed.append(value)
                elif tag == DT_STRTAB:
                    strings = _file_offset(headers, value)
    return Needs(interpreter, tuple(_string(data, strings + at) for at in needed))


def _file_offset(headers: list[tuple[int, ...]], address: int) -> int:
    for kind, _, offset, start, _, length, _, _ in headers:
        if kind == PT_LOAD and start <= address < start + length:
            return offset + address - start
    raise ValueError(f"ELF address {address:#x} lies in no segment")


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    if offset >= len(data) or end < 0:
        raise ValueError("ELF string runs past the end of the file")
    return data[offset:end].decode(errors="surrogateescape")
