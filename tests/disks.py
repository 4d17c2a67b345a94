"""Small disks of our own, where this user may mount them; and files that cannot be read."""

import errno
import io
import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def small_disk(folder, size):
    """A disk of `size` bytes in a new folder."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, *, leave=0):
    """Takes all room of a disk but some bytes; gives the file to be removed."""
    filler = folder / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - leave)))
    return filler


def make_read_only(folder):
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def make_writable(folder):
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def refuse_to_read(monkeypatch, part, number):
    """Files with `part` in their path are there, and give an error of the system when they are opened to be read."""
    real = io.open

    def failing(file, mode="r", *arguments, **options):
        if part in str(file) and "r" in mode:
            raise OSError(number, os.strerror(number), str(file))
        return real(file, mode, *arguments, **options)

    monkeypatch.setattr(io, "open", failing)


def fill_up(monkeypatch, part, *, kept=0):
    """A list: while anything is in it, files with `part` in their path take `kept` bytes of what is added to them."""
    real, full = io.open, []

    def opened(path, mode="r", *arguments, **options):
        file = real(path, mode, *arguments, **options)
        if full and mode == "ab" and part in str(path):
            write = file.write

            def torn(data):
                write(data[:kept])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            file.write = torn
        return file

    monkeypatch.setattr(io, "open", opened)
    return full
