"""Loads compiled CUDA kernels through CuPy and launches them on a stream that the caller names."""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

from . import _nvrtc
from ._backend import OLDEST, BackendError, is_installed

#: Cluster size in blocks that every GPU with clusters supports; larger clusters need a kernel attribute
#: #: (CUfunction_attribute).
_PORTABLE_CLUSTER, _NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 8, 14
#: The driver's errors for a cluster that does not fit: out of resources, invalid cluster size
_NO_ROOM = (701, 912)


def cupy() -> Any:
    """Return the module cupy, which loads and launches the cubins that NVRTC compiled."""
    if not is_installed("cupy"):
        raise BackendError("cuda: CuPy loads the kernels and is not installed (pip install fastiter-kernels[gpu])")
    try:
        return importlib.import_module("cupy")
    except ImportError as error:  # built for another CUDA version, or there is no driver
        raise BackendError(
            f"cuda: CuPy is installed and cannot be imported, check the driver with nvidia-smi and that there is one "
            f"cupy package alone (pip install fastiter-kernels[gpu]): {error}"
        ) from error


@lru_cache(maxsize=32)
def architecture(device: int) -> str:
    """Return a device's architecture, as ``"sm_90"``; refuse one that is too old."""
    text = str(cupy().cuda.Device(device).compute_capability)
    major, minor = int(text[:-1]), int(text[-1])
    if (major, minor) < OLDEST:
        needed = "{}.{}".format(*OLDEST)
        raise BackendError(
            f"cuda: device {device} must have compute capability {needed} or more, got {major}.{minor}; "
            "move the tensors to another device, or to the CPU"
        )
    return f"sm_{text}"


@lru_cache(maxsize=1024)
def _function(stem: str, kernel: str, defines: tuple[tuple[str, str], ...], device: int, cooperative: bool) -> Any:
    path = _nvrtc.cubin(stem, architecture(device), dict(defines))
    with cupy().cuda.Device(device):
        try:
            module = cupy().RawModule(path=str(path), enable_cooperative_groups=cooperative)
            function = module.get_function(kernel)
        except cupy().cuda.driver.CUDADriverError as error:
            nvrtc = "{}.{}".format(*_nvrtc.version())
            raise BackendError(
                f"cuda: the driver does not load {stem}.cu as NVRTC {nvrtc} compiles it: update the driver to one "
                f"for CUDA {nvrtc} (nvidia-smi shows its version), or install an older nvidia-cuda-nvrtc: {error}"
            ) from error
        # CuPy keeps one function object per file, so its shared-memory limit is set to the device's maximum, not to the
        # size of one launch: other launches or other threads would lower it.
        if int(dict(defines).get("CLUSTER", 1)) > _PORTABLE_CLUSTER:
            cupy().cuda.driver.funcSetAttribute(function.kernel.ptr, _NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
        limit = cupy().cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"]
        function.max_dynamic_shared_size_bytes = limit - function.shared_size_bytes
    return function


class _LaunchConfig(ctypes.Structure):
    """CUlaunchConfig of the driver."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    )


@lru_cache(maxsize=1024)
def active_clusters(
    stem: str, kernel: str, threads: int, shared: int, settings: tuple[tuple[str, str], ...], device: int
) -> int:
    """Return how many clusters of a kernel fit on a device at once: none may fit on a part of a card (MIG).

    ``settings`` are the defines, sorted, and ``threads`` those of a block.
    """
    function, size = _function(stem, kernel, settings, device, False), int(dict(settings)["CLUSTER"])
    config = _LaunchConfig((size, 1, 1), (threads, 1, 1), shared)
    count = ctypes.c_int()
    with cupy().cuda.Device(device):
        query = ctypes.CDLL("libcuda.so.1").cuOccupancyMaxActiveClusters
        code = query(ctypes.byref(count), ctypes.c_void_p(function.kernel.ptr), ctypes.byref(config))
    if code and code not in _NO_ROOM:
        raise BackendError(f"cuda: the driver cannot tell how many clusters of {stem}.cu fit: error {code}")
    return 0 if code else count.value


def settings_of(defines: Mapping[str, object] | None) -> tuple[tuple[str, str], ...]:
    """Return the defines of a kernel as a key."""
    return tuple(sorted((key, str(value)) for key, value in (defines or {}).items()))


class _Stream(NamedTuple):
    """A stream of another library, of which CuPy gets the address by the CUDA stream protocol."""

    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        """Return the version of the protocol, and the address."""
        return 0, self.address


def launch(
    stem: str,
    kernel: str,
    grid: Sequence[int],
    block: Sequence[int],
    args: Sequence[Any],
    *,
    device: int,
    stream: int,
    shared: int = 0,
    cooperative: bool = False,
    defines: Mapping[str, object] | None = None,
) -> None:
    """Launch a kernel of kernels/<stem>.cu, compiled with ``defines``.

    ``args`` are NumPy scalars of the kernel's own types, addresses as uint64. All blocks of a ``cooperative`` launch
    are resident at once, so that they can synchronise across the grid. The define CLUSTER is the number of blocks of a
    cluster: the kernel is compiled for this size, and the grid is a multiple of it.
    """
    settings = settings_of(defines)
    function = _function(stem, kernel, settings, device, cooperative)
    with cupy().cuda.Device(device), cupy().cuda.Stream.from_external(_Stream(stream)):
        try:
            function(three(grid), three(block), tuple(args), shared_mem=shared)
        except cupy().cuda.driver.CUDADriverError as error:
            size = int(dict(settings).get("CLUSTER", 1))
            if size > 1 and "CLUSTER" in str(error):  # the size is invalid, or no cluster fits
                raise BackendError(
                    f"cuda: {stem}.cu needs clusters of {size} blocks of {math.prod(block)} threads, for which device "
                    f"{device} has no room (it is a part of a card, by MIG); give the process the whole card: {error}"
                ) from error
            if not cooperative or "COOPERATIVE_LAUNCH_TOO_LARGE" not in str(error):
                raise
            raise BackendError(
                f"cuda: {stem}.cu needs all of its {math.prod(grid)} blocks at once on device {device}, which has not "
                f"room for them beside other processes (MPS); give the process the whole device: {error}"
            ) from error


def three(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes padded with ones to three axes."""
    return tuple([*sizes, 1, 1][:3])


def compile_all(variants: Sequence[tuple[str, Mapping[str, object]]], device: int = 0) -> None:
    """Compile several sources in parallel into the cache on disk, before they are needed."""
    arch = architecture(device)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_nvrtc.cubin, stem, arch, defines) for stem, defines in variants]:
            done.result()
