"""What a run finds around it: the compile cache and the versions."""

import contextlib
import ctypes
import datetime
import hashlib
import importlib.metadata
import json
import logging
import os
from pathlib import Path
import platform
import sys

import jax

from psann_jax.fields import cache_folder

# M_MMAP_MAX: no separate mappings; M_TRIM_THRESHOLD: nothing back, ever (the largest number
# would give back all above 2 GiB); M_ARENA_MAX: one heap.
KEEP_MEMORY = ((-4, 0), (-1, -1), (-8, 1))
MADV_HUGEPAGE = 14
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "numpy")

_log = logging.getLogger("psann_jax.run")


def set_up() -> None:
    """What a process of the command line does first."""
    keep_memory()
    use_compile_cache()


def use_compile_cache() -> None:
    """Keeps compiled programs across processes, unless JAX_COMPILATION_CACHE_DIR chose a place.

    The cache holds executables, so only its owner may enter the folder.
    """
    if jax.default_backend() == "cpu" and jax.device_count() > 1:
        return  # programs for several CPU devices hang when they come from the cache
    if not jax.config.values["jax_compilation_cache_dir"]:
        folder = cache_folder() / "xla"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            _log.warning("compiled programs are not kept: %s", error)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def keep_memory() -> None:
    """Makes glibc keep freed memory: a fifth off a CPU step of a small model.

    XLA:CPU frees a step's temporaries at its end; by default the kernel takes them back and
    zeroes them again, page by page, in the next step. For processes of our own only: the
    whole process shares one heap from then on. Elsewhere than glibc it does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in KEEP_MEMORY:
            libc.mallopt(option, value)
        _use_huge_pages(libc)


def _use_huge_pages(libc: ctypes.CDLL) -> None:
    """Lets Linux back the heap with pages of 2 MiB: a twentieth off a CPU step.

    The heap grows by half of the machine's memory, of which nothing is used yet, since the advice
    holds for what there is of it.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    libc.free(libc.malloc(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2))
    with contextlib.suppress(OSError):  # without /proc there is no such advice either
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith("[heap]"):
                first, last = (int(n, 16) for n in line.split()[0].split("-"))
                libc.madvise(first, last - first, MADV_HUGEPAGE)


def describe() -> dict[str, object]:
    """Date, versions, devices and command of this process, for env.json."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "backend": jax.default_backend(),
        "devices": [str(d) for d in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "processor": processor(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def matmul_precision(name: str | None) -> contextlib.AbstractContextManager:
    """Within it float32 products have this precision; None leaves the backend's."""
    return jax.default_matmul_precision(name) if name else contextlib.nullcontext()


def processor() -> str:
    """The CPU cores that this process may use, by the name that Linux has for them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} x {names[0] if names else platform.processor()}"


def code_digest() -> str:
    """A digest of this package's source and of the versions that it runs on."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(json.dumps([_version(name) for name in PACKAGES]).encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_description(path: Path) -> None:
    path.write_text(json.dumps(describe(), indent=2) + "\n")
