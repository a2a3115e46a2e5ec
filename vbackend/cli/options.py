"""Options and arguments that several sub-commands share, so that they read the same everywhere."""

from typing import Annotated, Final

import typer

__all__ = ["PORT_HELP", "ControlOption", "LabOption", "NameOption", "QueueLimitOption"]

NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Which backend, by name. [default: default]")
]
ControlOption = Annotated[
    str | None,
    typer.Option("--control", metavar="PATH", help="Which backend, by the path of its control socket."),
]
LabOption = Annotated[
    str | None, typer.Option("--lab", metavar="LAB", help="Which lab, when several have a VM of this name.")
]
QueueLimitOption = Annotated[
    int,
    typer.Option(
        "--queue-limit", metavar="N", min=1, max=65_536, help="Frames that wait for one port at most."
    ),
]

PORT_HELP: Final = """\b
PORT = KIND:WHERE[,key=value]...   (",," is a comma inside a value)
  stream:unix:PATH  stream:tcp:HOST:PORT      listens; keys: dial, multi
  dgram:unix:LOCAL:REMOTE  dgram:udp:LHOST:LPORT:RHOST:RPORT
  dgram:mcast:GROUP:PORT
  socket:listen:HOST:PORT  socket:connect:HOST:PORT
  socket:udp:LHOST:LPORT:RHOST:RPORT  socket:mcast:GROUP:PORT
  vhost-user:PATH  listens; keys: dial queues=PAIRS packed=on|off mtu=N
                      offloads=on|off busy-poll=MICROSECONDS
  vde:DIR       a VDE switch; keys: mode=OCTAL group=GROUP
  tap:IFNAME    keys: addr=CIDR bridge=NAME netns=NAME owner=USER mtu=N
                      offloads=on|off
  tun:IFNAME    keys: addr=LOCAL peer=REMOTE netns=NAME owner=USER mtu=N pi
  unit:PATH     keys: addr=LOCAL peer=REMOTE mtu=N mode=pointopoint|broadcast
                      header=none|null|loop|sockaddr|pi|ether
                      family=netbsd|freebsd|darwin|linux
Keys of every kind: name=NAME mac=MAC queue=FRAMES queue-bytes=BYTES isolated
                      rate=BITS (a second: 800k, 10M, 1.5G) burst=BYTES
A bad line to the port's peer: delay=TIME (200us, 50ms, 1.5s) jitter=TIME
                      loss=P (1%) or gilbert:p=P:r=P[:1-h=P][:1-k=P]
                      duplicate=P corrupt=P reorder=P overtake=on
                      seed=NUMBER hold=BYTES
"""
