"""Services as ports on a switch: a station with addresses that serves DHCP, router advertisements and DNS.

    wire.py, dhcp4_message.py   bytes to values and back, checked; what is wrong is a `WireError` with a `Drop`
    stack.py                    one frame in: its answer, or what a service is to answer (pure)
    leases.py, dhcp4.py         who has which address; (now, request) -> reply (pure)
    ra.py, dhcp6.py, dns.py     the other services (pure)
    forward.py                  asks the host's name servers
    station.py                  the shell: one channel port of a segment, the clock, the counters
    config.py, snapshot.py      what is asked for, and what it looks like

Requests get their answers at the address they came from, on the link and above it, so there is no neighbour cache.
"""
