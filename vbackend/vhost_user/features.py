"""Feature bits of a network device, by name, and which of them are offered. Pure.

Rule: nothing is offered that is not implemented. QEMU acknowledges every protocol feature it knows the number of, and
user-mode Linux, where no device model stands in between, then expects of the back-end what it acknowledged: hence no
control queue, no STATUS, no MAC, no GUEST_ANNOUNCE, which QEMU emulates whether they are offered or not.
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

__all__ = ["OFFLOADS", "PROTOCOL_FEATURES", "Feature", "Offer", "ProtocolFeature", "names"]


class Feature(IntFlag):
    """VIRTIO 1.2 §5.1.3 (network), §6 (reserved bits); LOG_ALL and PROTOCOL_FEATURES: vhost-user, "Migration"."""

    CSUM = 1 << 0  # the guest sends partial checksums
    GUEST_CSUM = 1 << 1  # the guest takes them
    MTU = 1 << 3
    GUEST_TSO4 = 1 << 7  # the guest takes large TCP segments
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9  # also with CWR
    GUEST_UFO = 1 << 10
    HOST_TSO4 = 1 << 11  # the guest sends large TCP segments
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    HOST_UFO = 1 << 14
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    LOG_ALL = 1 << 26
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    IN_ORDER = 1 << 35
    RING_RESET = 1 << 40
    GUEST_USO4 = 1 << 54  # the guest takes large UDP datagrams' segments
    GUEST_USO6 = 1 << 55
    HOST_USO = 1 << 56


class ProtocolFeature(IntFlag):
    """vhost-user, "Protocol features"."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19


# UFO is left out: no current guest sends it, and Linux has no more UDP fragmentation offload since 4.14.
OFFLOADS: Final = (
    Feature.CSUM
    | Feature.GUEST_CSUM
    | Feature.HOST_TSO4
    | Feature.HOST_TSO6
    | Feature.HOST_ECN
    | Feature.GUEST_TSO4
    | Feature.GUEST_TSO6
    | Feature.GUEST_ECN
    | Feature.HOST_USO
    | Feature.GUEST_USO4
    | Feature.GUEST_USO6
)

PROTOCOL_FEATURES: Final = (
    ProtocolFeature.MQ
    | ProtocolFeature.LOG_SHMFD
    | ProtocolFeature.RARP
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.MTU
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)

_ALWAYS: Final = (
    Feature.VERSION_1
    | Feature.PROTOCOL_FEATURES
    | Feature.MRG_RXBUF
    | Feature.INDIRECT_DESC
    | Feature.EVENT_IDX
    | Feature.IN_ORDER
    | Feature.LOG_ALL
)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a port offers to its front-ends."""

    queues: int = 1  # pairs, 1 to 16
    packed: bool = True
    offloads: bool = True
    mtu: int | None = None

    @property
    def rings(self) -> int:
        """Ring 2k receives into the guest, 2k+1 transmits (VIRTIO 1.2 §5.1.2)."""
        return 2 * self.queues

    @property
    def features(self) -> Feature:
        found = _ALWAYS
        if self.packed:
            found |= Feature.RING_PACKED
        if self.offloads:
            found |= OFFLOADS
        if self.queues > 1:
            found |= Feature.MQ
        if self.mtu is not None:
            found |= Feature.MTU
        return found


def names(bits: Feature | ProtocolFeature) -> tuple[str, ...]:
    """The names of the bits that are set, lowest first; one without a name is called by its number."""
    kind, word = type(bits), int(bits)
    numbers = (number for number in range(word.bit_length()) if word >> number & 1)
    return tuple(kind(1 << number).name or f"bit {number}" for number in numbers)
