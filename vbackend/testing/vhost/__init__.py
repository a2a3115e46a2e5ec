"""A vhost-user front-end in plain Python: driver, guest memory and control protocol.

Each step is a method of its own, which the caller may leave out, repeat or give wrong values: so it can be made to
misbehave on purpose, as vbackend's own conformance tests do. `nic` behaves.

Independent of `vbackend.vhost_user`, so that each is the other's twin. From the inside out: `wire` (messages),
`memory` (a guest's memory), `ring`, `split` and `packed` (the driver's side of virtqueues), `frontend` (the control
socket), `nic` (a well-behaved network driver on top).
"""
