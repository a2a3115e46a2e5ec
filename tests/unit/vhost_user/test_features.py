"""Bits by their numbers in the specifications, and what is offered when."""

import pytest

from vbackend.vhost_user.features import (
    OFFLOADS,
    PROTOCOL_FEATURES,
    Feature,
    Offer,
    ProtocolFeature,
    names,
)

# linux/virtio_net.h, linux/virtio_config.h, linux/virtio_ring.h, linux/vhost_types.h
NUMBERS = [
    (Feature.CSUM, 0),
    (Feature.GUEST_CSUM, 1),
    (Feature.MTU, 3),
    (Feature.GUEST_TSO4, 7),
    (Feature.GUEST_TSO6, 8),
    (Feature.GUEST_ECN, 9),
    (Feature.GUEST_UFO, 10),
    (Feature.HOST_TSO4, 11),
    (Feature.HOST_TSO6, 12),
    (Feature.HOST_ECN, 13),
    (Feature.HOST_UFO, 14),
    (Feature.MRG_RXBUF, 15),
    (Feature.STATUS, 16),
    (Feature.CTRL_VQ, 17),
    (Feature.GUEST_ANNOUNCE, 21),
    (Feature.MQ, 22),
    (Feature.LOG_ALL, 26),
    (Feature.INDIRECT_DESC, 28),
    (Feature.EVENT_IDX, 29),
    (Feature.PROTOCOL_FEATURES, 30),
    (Feature.VERSION_1, 32),
    (Feature.ACCESS_PLATFORM, 33),
    (Feature.RING_PACKED, 34),
    (Feature.IN_ORDER, 35),
    (Feature.RING_RESET, 40),
    (Feature.GUEST_USO4, 54),
    (Feature.GUEST_USO6, 55),
    (Feature.HOST_USO, 56),
]

EXTRA = Feature.RING_PACKED | OFFLOADS | Feature.MQ | Feature.MTU
OFFERS = [
    (Offer(), Feature.RING_PACKED | OFFLOADS, 2),
    (Offer(queues=4), Feature.RING_PACKED | OFFLOADS | Feature.MQ, 8),
    (Offer(packed=False), OFFLOADS, 2),
    (Offer(offloads=False), Feature.RING_PACKED, 2),
    (Offer(mtu=9000), Feature.RING_PACKED | OFFLOADS | Feature.MTU, 2),
    (Offer(queues=16, packed=False, offloads=False), Feature.MQ, 32),
]


@pytest.mark.parametrize(("feature", "number"), NUMBERS)
def test_numbers(feature: Feature, number: int) -> None:
    assert feature == 1 << number
    assert names(feature) == (feature.name,)


def test_every_bit_was_looked_up() -> None:
    assert {feature for feature, _ in NUMBERS} == set(Feature)


@pytest.mark.parametrize(("offer", "extra", "rings"), OFFERS)
def test_what_is_offered(offer: Offer, extra: Feature, rings: int) -> None:
    assert offer.features & EXTRA == extra
    assert offer.rings == rings
    always = Feature.VERSION_1 | Feature.PROTOCOL_FEATURES | Feature.LOG_ALL | Feature.IN_ORDER
    assert always in offer.features


def test_nothing_is_offered_that_is_not_implemented() -> None:
    """User-mode Linux would acknowledge it and then miss it; QEMU acknowledges protocol features unseen."""
    everything = Offer(queues=16, mtu=1500).features
    missing = Feature.CTRL_VQ | Feature.STATUS | Feature.GUEST_ANNOUNCE | Feature.ACCESS_PLATFORM
    assert not everything & (missing | Feature.RING_RESET | Feature.GUEST_UFO | Feature.HOST_UFO)
    assert names(PROTOCOL_FEATURES) == (
        "MQ",
        "LOG_SHMFD",
        "RARP",
        "REPLY_ACK",
        "MTU",
        "BACKEND_REQ",
        "RESET_DEVICE",
        "CONFIGURE_MEM_SLOTS",
        "STATUS",
    )
    assert [int(bit).bit_length() - 1 for bit in PROTOCOL_FEATURES] == [0, 1, 2, 3, 4, 5, 13, 15, 16]


def test_names_of_bits_without_one() -> None:
    assert names(Feature(1 << 63 | 1 << 32)) == ("VERSION_1", "bit 63")
    assert names(ProtocolFeature(0)) == ()
