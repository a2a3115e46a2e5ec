"""The announcement, read by somebody else's decoder."""

from scapy.layers.l2 import ARP, Ether

from vbackend.vhost_user.announce import announcement


def test_a_reverse_arp_request_from_the_guest_to_all() -> None:
    frame = announcement(b"\x52\x54\x00\x12\x34\x56")
    assert len(frame) == 60
    ethernet = Ether(frame)
    assert (ethernet.dst, ethernet.src, ethernet.type) == ("ff:ff:ff:ff:ff:ff", "52:54:00:12:34:56", 0x8035)
    arp = ARP(frame[14:])
    assert (arp.hwtype, arp.ptype, arp.hwlen, arp.plen, arp.op) == (1, 0x0800, 6, 4, 3)
    assert (arp.hwsrc, arp.psrc) == (arp.hwdst, arp.pdst) == ("52:54:00:12:34:56", "0.0.0.0")
    assert frame[42:] == bytes(18)
