"""The process in which a command runs: missing packages, memory, restarts, and settings for libtpu."""

import glob
import importlib.util
import os
import pathlib
import subprocess
import sys
import traceback
from typing import Any

TUNABLE = "glibc.malloc.hugetlb=1"
ROOT = pathlib.Path(__file__).parents[2]


# Packages that some commands need in addition to the core: module -> (extra in pyproject.toml, package)
EXTRAS = {
    "array_record": ("train", "array-record"),
    "clu": ("train", "clu"),
    "gcsfs": ("gcs", "gcsfs"),
    "grain": ("train", "grain"),
    "h5py": ("convert", "h5py"),
    "huggingface_hub": ("convert", "huggingface-hub"),
    "importlib_resources": ("train", "importlib-resources"),
    "libtpu": ("plan", "libtpu"),
    "matplotlib": ("train", "matplotlib"),
    "safetensors": ("convert", "safetensors"),
    "onnx": ("bench", "onnx"),
    "onnxruntime": ("bench", "onnxruntime"),
    "sklearn": ("train", "scikit-learn"),
    "tensorboard": ("train", "tensorboard"),
    "tensorflow": ("train", "tensorflow-cpu"),
    "tensorflow_datasets": ("train", "tensorflow-datasets"),
    "torch": ("convert", "torch"),
}


def processors() -> int:
    """The number of processors that this process may use. A container may allow fewer than the machine has (Linux, cgroup v2)."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(found, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such limit, or the word "max"
        return found


def needs(module: str) -> str:
    """Returns a message that names the package of a module, and how to install it.

    Args:
      module: a key of EXTRAS.
    """
    extra, package = EXTRAS[module]
    return f"needs {package}, which is not installed; `pip install {package}`, or install bnext_jax with its extra [{extra}]"


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Returns the message of `needs` if the missing module is in EXTRAS, else None."""
    module = (error.name or "").split(".")[0]
    return needs(module) if module in EXTRAS else None


def program() -> str:
    """Returns how the user calls this program: "python main.py" if main.py was started, else "bnext"."""
    return "python main.py" if os.path.basename(sys.argv[0]) == "main.py" else "bnext"


def revision() -> str:
    """Returns the abbreviated commit of this checkout, with "+" if Python files differ from the commit. "" outside a checkout."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD") if (ROOT / ".git").exists() else ""
    return commit + ("+" if commit and git("status", "--porcelain", "--", "*.py") else "")


def memory_bytes() -> int | None:
    """Returns the size of this machine's memory in bytes. None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system, or one without these names
        return None


def restart_with_huge_pages() -> None:
    """Restarts this program once, so that glibc's allocator asks for huge pages. Only on Linux, and only if GLIBC_TUNABLES is not set.

    XLA's CPU client allocates its workspace (1.5 GB for BNext-T at batch 8) anew in every step. The page faults of 4 KiB pages cost one
    sixth of the step's time (benchmarks/train_step.py). glibc reads the setting only when a program starts, hence the restart.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # orig_argv also has -m and -X; sys.argv does not


def abandoned(told: Any) -> bool:
    """Returns whether an exception raised in a destructor or callback comes from a read that Orbax abandoned.

    When one read of a damaged checkpoint fails, Orbax leaves hundreds of coroutines on a closed event loop. Each of them raises when it is
    garbage-collected, possibly much later and in another thread. The failure itself has been reported by then.

    Args:
      told: the argument of sys.unraisablehook.
    """
    passed = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(told.exc_traceback)]
    passed.append(getattr(getattr(told.object, "cr_code", None), "co_filename", ""))
    return str(told.exc_value) == "Event loop is closed" or any("orbax" in pathlib.Path(name).parts for name in passed)


def silence_abandoned() -> None:
    """Wraps the present sys.unraisablehook, so that it ignores every exception that is `abandoned`."""
    telling = sys.unraisablehook
    sys.unraisablehook = lambda told: None if abandoned(told) else telling(told)


# Without these values libtpu asks Google's metadata server for them, and waits for minutes if it gets no answer. The last two silence logs.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def on_tpu() -> bool:
    """Returns whether this machine has TPU chips and libtpu. Does not ask JAX for devices."""
    return bool(importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")))


def without_tpu() -> None:
    """Tells libtpu not to look for TPUs, if it is installed on a machine without them (for `plan`). Call this before JAX starts."""
    if importlib.util.find_spec("libtpu") and not on_tpu():
        for name, value in WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
