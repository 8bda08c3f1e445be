"""Folders in memory for the copies, each kind of program's where memory costs it least.

Holds the mounts and nothing else. Used by ../site.py."""

import contextlib
import ctypes
import os
import subprocess
import tempfile

CLONE_NEWNS = 0x20000
SMALL_PAGES = "size=95%"
HUGE_PAGES = f"huge=always,{SMALL_PAGES}"


def mount(folder, options):
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "lamplighter", folder], stderr=subprocess.DEVNULL).returncode == 0


@contextlib.contextmanager
def memory_folders():
    """A folder for ours and one for the others, mounted where only this process and its children see them, so that nothing is
    left even if it is killed.

    Ours lie on huge pages, which are filled before the clock runs, as a disk is there before its machine is imaged. The others make their
    files as they go; to them a huge page is a pause: it costs udpcast a tenth of its time in packets that it must send again."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise SystemExit(f"site: a mount namespace of our own: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["mount", "--make-rslave", "/"], check=True)
    folder = tempfile.mkdtemp(prefix="lamplighter-bench-site-")
    mounted = []
    try:
        for name, choices in (("ours", (HUGE_PAGES, SMALL_PAGES)), ("others", (SMALL_PAGES,))):
            os.mkdir(f"{folder}/{name}")
            if not any(mount(f"{folder}/{name}", options) for options in choices):
                raise SystemExit("site: no tmpfs can be mounted")
            mounted.append(f"{folder}/{name}")
        yield mounted
    finally:
        for place in mounted:
            subprocess.run(["umount", "-l", place], check=False)
        for name in os.listdir(folder):
            os.rmdir(f"{folder}/{name}")
        os.rmdir(folder)
