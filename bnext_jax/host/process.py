"""The process that a command runs in."""

import glob
import importlib.util
import os
import pathlib
import subprocess
import sys
import traceback

TUNABLE = "glibc.malloc.hugetlb=1"
ROOT = pathlib.Path(__file__).parents[2]


# Packages that a command may need beside the core: module -> (extra of pyproject.toml, package)
EXTRAS = {
    "array_record": ("train", "array-record"),
    "clu": ("train", "clu"),
    "gcsfs": ("gcs", "gcsfs"),
    "grain": ("train", "grain"),
    "huggingface_hub": ("convert", "huggingface-hub"),
    "importlib_resources": ("train", "importlib-resources"),
    "libtpu": ("plan", "libtpu"),
    "matplotlib": ("train", "matplotlib"),
    "safetensors": ("convert", "safetensors"),
    "sklearn": ("train", "scikit-learn"),
    "tensorboard": ("train", "tensorboard"),
    "tensorflow": ("train", "tensorflow-cpu"),
    "tensorflow_datasets": ("train", "tensorflow-datasets"),
    "torch": ("convert", "torch"),
}


def needs(module):
    """Text: which package a module comes with, and how to get it. module: a key of EXTRAS."""
    extra, package = EXTRAS[module]
    return f"needs {package}, which is not installed; `pip install {package}`, or install bnext_jax with its extra [{extra}]"


def missing_package(error):
    """needs() of a ModuleNotFoundError for a package of ours, None of any other."""
    module = (error.name or "").split(".")[0]
    return needs(module) if module in EXTRAS else None


def program():
    """How this program is called: "python main.py" in a clone, else "bnext"."""
    return "python main.py" if os.path.basename(sys.argv[0]) == "main.py" else "bnext"


def revision():
    """The commit of the checkout that runs, abbreviated, with "+" where Python files differ from it; "" where this is no checkout."""

    def git(*words):
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD") if (ROOT / ".git").exists() else ""
    return commit + ("+" if commit and git("status", "--porcelain", "--", "*.py") else "")


def memory_bytes():
    """Bytes of this machine's memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system, or one without the name
        return None


def restart_with_huge_pages():
    """Starts this program again, once, with glibc's allocator asking the kernel for huge pages; elsewhere than Linux it does nothing.

    XLA's CPU client allocates its workspace (1.5 GB for BNext-T, batch 8) anew at each step, and the faults of its
    4 KiB pages cost a sixth of the step's time (benchmarks/train_step.py). The setting is read when a program starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # with -m and -X, which sys.argv does not have


def abandoned(told):
    """Whether an error that nothing can catch comes from a read that Orbax abandoned, where another one failed.

    A damaged checkpoint leaves hundreds of Orbax's coroutines on a closed event loop, and each complains when it is
    collected, be it much later and in another thread. The failure itself has been told by then.

    Args:
      told: the argument of sys.unraisablehook.
    """
    passed = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(told.exc_traceback)]
    passed.append(getattr(getattr(told.object, "cr_code", None), "co_filename", ""))
    return str(told.exc_value) == "Event loop is closed" or any("orbax" in pathlib.Path(name).parts for name in passed)


def silence_abandoned():
    """Makes sys.unraisablehook, as it is now, pass over what is `abandoned`."""
    telling = sys.unraisablehook
    sys.unraisablehook = lambda told: None if abandoned(told) else telling(told)


# What libtpu else asks Google's metadata server for, minutes long where nothing answers, and how much it prints.
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def on_tpu():
    """Whether this machine has TPU chips and the library that drives them; asks for no devices."""
    return bool(importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*")))


def without_tpu():
    """Tells libtpu, where it is installed for `plan` on a machine without TPUs, not to look for any. To be called before JAX starts."""
    if importlib.util.find_spec("libtpu") and not on_tpu():
        for name, value in WITHOUT_TPU.items():
            os.environ.setdefault(name, value)
