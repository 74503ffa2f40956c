"""The properties of a GPU that a plan depends on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any

from .._backend import BackendError

KIB = 1024


@dataclass(frozen=True)
class Device:
    """A GPU: the resources of its kernels, and its speed.

    Attributes
    ----------
    name : str
        The name that the driver reports, or a key of :data:`~fastiter.tune.DEVICES`.
    capability : (int, int)
        Compute capability, (9, 0) for sm_90.
    sms : int
        Streaming multiprocessors (SMs).
    registers, shared : int
        32-bit registers, and bytes of shared memory, of one SM.
    block_shared : int
        Maximum bytes of shared memory per block.
    l2 : int
        Bytes of L2 cache.
    clock : int
        Boost clock, MHz.
    bandwidth : int
        Memory bandwidth, GB/s from the data sheet; a copy reaches about 90% of it.
    tensor_flops : int
        Dense bf16 TFLOP/s of the tensor cores from the data sheet.
    thread_registers, block_threads, threads, warp : int
        Limits: registers per thread, threads per block and per SM; and threads per warp.

    See Also
    --------
    rnn_plan : The launch of a recurrence on a device.

    Examples
    --------
    >>> from fastiter import tune
    >>> tune.DEVICES["H100"].sms
    132
    >>> list(tune.DEVICES)
    ['A100', 'H100', 'H200', 'B200', 'RTX 4090']
    """

    name: str
    capability: tuple[int, int]
    sms: int
    registers: int
    shared: int
    block_shared: int
    l2: int
    clock: int
    bandwidth: int
    tensor_flops: int
    thread_registers: int = 255
    block_threads: int = 1024
    threads: int = 2048
    warp: int = 32

    @classmethod
    def current(cls) -> Device:
        """Return the current GPU of torch, if the program has imported it, or else of CuPy.

        Returns
        -------
        Device
            Speeds that GPUs do not report are taken from the entry with the same name or the nearest generation.

        Raises
        ------
        BackendError
            If neither is available, or neither finds a GPU; the message gives a remedy.
        """
        torch = sys.modules.get("torch")  # not imported here, as a user of GPU tensors has imported it
        if torch is not None and torch.cuda.is_available():
            number = torch.cuda.current_device()
            properties = torch.cuda.get_device_properties(number)
            return _from_torch(properties, getattr(properties, "clock_rate", 0))
        if importlib.util.find_spec("cupy") is None:
            reasons = (
                "torch sees no card and CuPy is not installed" if torch else "torch is not imported, CuPy not installed"
            )
            raise BackendError(
                f"Device.current: a CUDA card must be visible to torch or CuPy, got none ({reasons}); "
                "import torch first or pip install fastiter-kernels[gpu], or take a row of fastiter.tune.DEVICES"
            )
        cupy = importlib.import_module("cupy")
        try:
            properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendError(
                f"Device.current: CuPy must see a CUDA card, got {error}; check the driver with nvidia-smi, "
                "or take a row of fastiter.tune.DEVICES"
            ) from error
        return _from_cupy(properties)


def _from_torch(properties: Any, clock: int) -> Device:
    """Build a Device from torch's properties; a missing block_shared is that of the SM minus 1 KiB."""
    shared = properties.shared_memory_per_multiprocessor
    return _row(
        properties.name,
        (properties.major, properties.minor),
        properties.multi_processor_count,
        registers=properties.regs_per_multiprocessor,
        shared=shared,
        block_shared=getattr(properties, "shared_memory_per_block_optin", shared - KIB),
        l2=properties.L2_cache_size,
        threads=properties.max_threads_per_multi_processor,
        clock=clock // 1000,
    )


def _from_cupy(properties: dict[str, Any]) -> Device:
    return _row(
        properties["name"].decode(),
        (properties["major"], properties["minor"]),
        properties["multiProcessorCount"],
        registers=properties["regsPerMultiprocessor"],
        shared=properties["sharedMemPerMultiprocessor"],
        block_shared=properties["sharedMemPerBlockOptin"],
        l2=properties["l2CacheSize"],
        threads=properties["maxThreadsPerMultiProcessor"],
        clock=properties.get("clockRate", 0) // 1000,
    )


def _row(name: str, capability: tuple[int, int], sms: int, *, clock: int, **facts: int) -> Device:
    """Add the speeds, which GPUs do not report, from the entry with the same name or the nearest generation."""
    named = [row for key, row in DEVICES.items() if key.replace("RTX ", "") in name]
    older = [row for row in DEVICES.values() if row.capability <= capability]
    like = (named or sorted(older, key=lambda row: row.capability)[-1:] or [DEVICES["A100"]])[0]
    flops = like.tensor_flops * sms // like.sms
    return Device(
        name, capability, sms, **facts, clock=clock or like.clock, bandwidth=like.bandwidth, tensor_flops=flops
    )


class Devices(dict[str, Device]):
    """Devices by name; an unknown name raises an error that lists the known ones."""

    def __missing__(self, name: object) -> Device:
        raise KeyError(f"DEVICES: the name must be one of {', '.join(map(repr, self))}, got {name!r}")


#: Data sheet values of some GPUs
DEVICES = Devices(
    {
        "A100": Device("A100", (8, 0), 108, 65536, 164 * KIB, 163 * KIB, 40 << 20, 1410, 2039, 312),
        "H100": Device("H100", (9, 0), 132, 65536, 228 * KIB, 227 * KIB, 50 << 20, 1980, 3350, 989),
        "H200": Device("H200", (9, 0), 132, 65536, 228 * KIB, 227 * KIB, 50 << 20, 1980, 4800, 989),
        "B200": Device("B200", (10, 0), 148, 65536, 228 * KIB, 227 * KIB, 126 << 20, 1965, 8000, 2250),
        "RTX 4090": Device(
            "RTX 4090", (8, 9), 128, 65536, 100 * KIB, 99 * KIB, 72 << 20, 2520, 1008, 165, threads=1536
        ),
    }
)
