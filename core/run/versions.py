"""The versions that numbers were computed with."""

import functools
import importlib.metadata
import platform

PACKAGES = ("twobounds", "torch", "torchvision", "timm")


@functools.cache
def versions() -> dict[str, str]:
    """Package to version; "absent" where it is not installed (a checkout that is no package)."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found
