"""`tools/dev demo`: two QEMU guests and the host on one switch, measured, and taken away again."""
