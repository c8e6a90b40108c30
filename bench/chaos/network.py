"""A network of this process's own, in which packets can be lost: Linux, as root, with `tc`."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

CLONE_NEWNET = 0x40000000


def enter_own_network() -> bool:
    """Move this process into a network with a loopback of its own; tell whether that is allowed.

    Only the thread that calls is moved, and what it starts later: to be called first of all.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    if shutil.which("tc") is None or shutil.which("ip") is None:
        return False
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        return False
    return _run("ip", "link", "set", "lo", "up")


def lose_packets() -> bool:
    """Lose every packet from now on; tell whether that worked."""
    return _run("tc", "qdisc", "add", "dev", "lo", "root", "pfifo", "limit", "0")


def keep_packets() -> None:
    """Lose none any more."""
    _run("tc", "qdisc", "del", "dev", "lo", "root")


def _run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
