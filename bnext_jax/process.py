"""The process that a command runs in."""

import os
import sys

TUNABLE = "glibc.malloc.hugetlb=1"


def restart_with_huge_pages():
    """Starts this program again, once, with glibc's allocator asking the kernel for huge pages; elsewhere than Linux it does nothing.

    XLA's CPU client allocates its workspace (1.5 GB for BNext-T, batch 8) anew at each step, and the faults of its
    4 KiB pages cost a sixth of the step's time (benchmarks/train_step.py). The setting is read when a program starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        os.execv(sys.executable, [sys.executable, *sys.argv])
