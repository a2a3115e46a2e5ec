"""Rate limits of ports: how they are written, and what burst goes with a rate. Pure.

Rates are bits per second, bursts bytes; `k M G T` are decimal multiples of both. The bucket itself is in the engine
(`native/proto/src/shaper.rs`).
"""

import re
from decimal import Decimal
from typing import Final

__all__ = ["BURST_MAX", "RATE_MAX", "burst_for", "read_burst", "read_rate", "read_size", "short"]

RATE_MAX: Final = 10**12  # bits/s
BURST_MAX: Final = 10**10  # bytes

_MULTIPLES: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_QUANTITY = re.compile(r"([0-9]{1,13}(?:\.[0-9]{1,12})?)([kKMGT]?)", re.ASCII)

# A burst below what the rate earns between two looks at the clock, which ticks every 4 ms, would lose rate.
_LEAST_MS: Final = 10
_DEFAULT_MS: Final = 20
_DEFAULT_LEAST: Final = 16 * 1024  # ten full frames, so that a slow port still sends a batch at once


def read_rate(what: str, text: str) -> int:
    """Bits per second, e.g. 800k, 10M, 1.5G. ValueError: not a rate, or none that is possible."""
    return _read(what, text, RATE_MAX, "bits/s such as 800k, 10M or 1.5G, at most 1T")


def read_burst(what: str, text: str) -> int:
    """Bytes, e.g. 64k. ValueError as `read_rate`."""
    return _read(what, text, BURST_MAX, "bytes such as 64k, at most 10G")


def read_size(what: str, text: str, least: int, most: int) -> int:
    """Bytes from `least` to `most`. ValueError as `read_rate`."""
    right = f"bytes such as {short(most // 1000 * 1000)}, from {short(least)} to {short(most)}"
    found = _read(what, text, most, right)
    if found < least:
        raise ValueError(f"{what} is {text!r}; give {right}")
    return found


def burst_for(rate: int, wanted: int | None) -> int:
    """The burst in bytes that a `rate` in bits/s gets: what is wanted, but 10 ms of the rate at least.

    Not told, 20 ms of the rate or 16 KiB, whichever is more.
    """
    if wanted is None:
        return max(_bytes(rate, _DEFAULT_MS), _DEFAULT_LEAST)
    return max(_bytes(rate, _LEAST_MS), wanted)


def short(count: int) -> str:
    """As `read_rate` takes it, exactly and in few characters: 1500000000 is 1.5G."""
    for suffix, unit in reversed(_MULTIPLES.items()):
        scaled = Decimal(count) / unit
        if count >= unit and len(text := f"{scaled:f}") <= len(str(count)):
            return text + suffix
    return str(count)


def _bytes(rate: int, ms: int) -> int:
    return -(-rate * ms // 8000)


def _read(what: str, text: str, most: int, right: str) -> int:
    match = _QUANTITY.fullmatch(text)
    found = Decimal(0)
    if match is not None:
        found = Decimal(match[1]) * _MULTIPLES[match[2].replace("K", "k")]
    if not 1 <= found <= most or found != int(found):
        raise ValueError(f"{what} is {text!r}; give {right}")
    return int(found)
