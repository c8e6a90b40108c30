"""A private network namespace that can drop packets: Linux, as root, with `tc`."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

CLONE_NEWNET = 0x40000000


def enter_own_network() -> bool:
    """Move this process into a network namespace with its own loopback. Return whether it worked.

    Only the calling thread and its later children move, so call this before anything else.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    if shutil.which("tc") is None or shutil.which("ip") is None:
        return False
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        return False
    return _run("ip", "link", "set", "lo", "up")


def lose_packets() -> bool:
    """Drop every packet from now on. Return whether that worked."""
    return _run("tc", "qdisc", "add", "dev", "lo", "root", "pfifo", "limit", "0")


def keep_packets() -> None:
    """Stop dropping packets."""
    _run("tc", "qdisc", "del", "dev", "lo", "root")


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
