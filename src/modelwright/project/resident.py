"""The memory of a step, whatever the process did before it: the program's own, and by how much the step made it grow.

The peak of a process holds what earlier steps left behind, and one that was resumed has made fewer of them: by its peak
it would decide otherwise. So what is free is given back first, and the growth from there is counted.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from pathlib import Path

from modelwright.train.meter import peak_memory

UNIT = 2**24  # bytes: two processes of one program differ by less


@functools.cache
def program() -> int:
    """Bytes that the program holds when it begins, rounded up; asked once, and then the same."""
    return -(-resident() // UNIT) * UNIT


def begin() -> int:
    """Give back what is free and count the peak anew -> bytes that are held now."""
    gc.collect()
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    path = Path("/proc/self/clear_refs")  # proc(5): 5 resets the peak
    if path.exists():
        path.write_text("5")
    return resident()


def grown(since: int) -> int:
    """Bytes at the worst moment since `begin` said so many, of the program and the step alone."""
    return program() + max(0, peak_memory() - since)


def resident() -> int:
    """Bytes that this process holds now."""
    path = Path("/proc/self/status")
    if not path.exists():
        return peak_memory()
    line = next(line for line in path.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
