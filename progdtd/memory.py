"""Keep large blocks of memory for the next operation instead of returning them to the system."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors; does nothing on other systems.

    By default every tensor above some megabytes is mapped anew and unmapped when freed, and
    its pages fault in one by one: on a CPU that takes up to half the time of a convolution.
    `scripts/benchmark.py` measures what it brings.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
        libc.mallopt(M_TOP_PAD, 64 << 20)
