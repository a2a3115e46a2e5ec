"""Guest images: small Linux systems for QEMU, made from Debian packages without root.

A recipe (`vm-images/NAME.toml` in a checkout, or a path) says what goes in; `build_image` downloads the packages,
takes the wanted files out of them and writes a kernel and an initramfs into a cache outside the repository. Nothing
is ever run as root, installed or mounted.
"""

from vbackend.images.build import BuiltImage, build_image
from vbackend.images.recipe import list_images

__all__ = ["BuiltImage", "build_image", "list_images"]
