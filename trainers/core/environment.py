"""What a training ran on, for its run folder and the release's manifest; and how it is seeded."""

from __future__ import annotations

import os
import platform
import random
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainers.core.errors import TrainingError

PACKAGES = (
    "mreg", "torch", "numpy", "scipy", "nibabel", "SimpleITK", "blosc2", "nnunetv2", "batchgenerators",
    "batchgeneratorsv2", "dynamic-network-architectures", "acvl-utils", "scikit-image",
)  # fmt: skip


def describe(device: torch.device, seed: int, dataset_hash: str) -> dict[str, Any]:
    """Return versions, device, threads, seed and dataset hash; no host or user name."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "device": {"type": device.type, "name": name},
        "threads": torch.get_num_threads(),
        "seed": seed,
        "dataset_hash": dataset_hash,
    }


def peak_memory() -> int:
    """Return the most bytes that this process held in memory; 0 on a system that does not say.

    Linux carries getrusage's figure over from the program that started this one, so its own is read first.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def free_memory() -> int | None:
    """Return the bytes that this process may still take without swapping; None on a system that does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")  # of a container or job, which may have less than the machine
    try:
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no room for an array; torch has a class of errors for that on GPUs alone."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def choose_device(wanted: str) -> torch.device:
    """Return the device of that name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises `TrainingError` for a GPU that is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(wanted.partition(":")[0], True):
        raise TrainingError(
            f"device {wanted!r} was asked for and there is none", hint="--device cpu, or mend the driver"
        )
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def ready_device(wanted: str) -> torch.device:
    """Choose the device of a training; on a CPU torch gets every processor that this process may use."""
    device = choose_device(wanted)
    torch.set_num_threads(cpu_count() if device.type == "cpu" else 1)
    return device


def bf16_here(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; a CPU without them emulates it, at a third of the speed."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    from torch import cpu

    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())  # noqa: SLF001 - no public name


def cpu_count() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - nnU-Net's loaders draw from the global generator
    torch.manual_seed(seed)
