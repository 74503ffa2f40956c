"""The step `latencies`: cycles of loads, functions and barriers, inputs of the emulator and of the tuner's model.

Compiled by NVRTC and launched by CuPy, as a machine with only a driver has no nvcc. A dry run compiles for sm_90.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.card.device import Place
from bench.card.worker import Item
from bench.harness.record import Record

SOURCE = Path(__file__).parent / "latencies.cu"
TURNS = 2000
#: Kernels of one warp with the arguments turns, cycles and sink, by the emulator's name for the quantity they measure
CHAINS = {
    "shared": "chase_shared",
    "shared_wide": "chase_shared_wide",
    "function": "chain_function",
    "tensor": "chain_tensor",
    "shuffle": "chain_shuffle",
}
GRIDS = ("fence and atomic", "releasing reduction", "flag of each block")
BLOCKS = (16, 32, 64, 96, 128)
CLUSTERS = (2, 4, 8)
#: The compute capability from which cards have clusters
CLUSTERED = (9, 0)


def compiled(arch: str) -> bytes:
    """Return the cubin for an architecture such as sm_90."""
    from fastiter import _nvrtc

    return _nvrtc.compile_source(SOURCE.read_text(), "latencies", arch)


@lru_cache(maxsize=1)
def module() -> Any:
    """Return the kernels, loaded by CuPy."""
    from fastiter import _cuda, _nvrtc

    cupy = _cuda.cupy()
    path = _nvrtc.cache_folder() / "latencies.cubin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compiled(_cuda.architecture(0)))
    return cupy.RawModule(path=str(path))


def turns_of(
    kernel: str,
    grid: int,
    threads: int,
    before: tuple[Any, ...],
    after: tuple[Any, ...],
    shared: int = 0,
    warm: bool = True,
) -> float:
    """Return the cycles per turn, after a launch that warms up the caches unless the kernel is meant to miss them."""
    cupy = importlib.import_module("cupy")

    cycles, function = cupy.zeros(1, cupy.int64), module().get_function(kernel)
    if shared > 48 << 10:
        function.max_dynamic_shared_size_bytes = shared
    for _ in range(1 + warm):
        for x in before:
            if isinstance(x, cupy.ndarray) and x.dtype == cupy.uint32 and x.size <= 4096:
                x.fill(0)  # the counters of barriers
        function((grid,), (threads,), (*before, np.int32(TURNS), cycles, *after), shared_mem=shared)
    return float(cycles[0]) / TURNS


def chain(kernel: str) -> Record:
    cupy = importlib.import_module("cupy")

    return {"cycles": turns_of(kernel, 1, 32, (), (cupy.zeros(1, cupy.uint32),))}


def chase(mebibytes: int, warm: bool) -> Record:
    """A chain of loads through memory of this size, at least 128 bytes apart; all in L2 if warm, otherwise none."""
    cupy = importlib.import_module("cupy")

    count = (mebibytes << 20) // 4
    at = np.arange(TURNS + 1, dtype=np.int64) * 32 * 4099 % count
    following = cupy.zeros(count, cupy.uint32)
    following[cupy.asarray(at[:-1])] = cupy.asarray(at[1:].astype(np.uint32))
    if not warm:
        cupy.zeros(256 << 20, cupy.uint8).fill(1)  # evicts the chain from L2
    cycles = turns_of("chase", 1, 1, (following,), (cupy.zeros(1, cupy.uint32),), warm=warm)
    return {"cycles": cycles, "MiB": mebibytes}


def of_memory(kernel: str, threads: int = 1) -> Record:
    cupy = importlib.import_module("cupy")

    sink = (cupy.zeros(1, cupy.uint32),) if kernel == "chain_atomic" else ()
    return {"cycles": turns_of(kernel, 1, threads, (cupy.zeros(1024, cupy.uint32),), sink)}


def barrier_of_grid(kind: int, blocks: int) -> Record:
    cupy = importlib.import_module("cupy")

    data = cupy.zeros(2 * blocks * 128, cupy.float32)
    arguments = (cupy.zeros(1024, cupy.uint32), np.int32(kind))
    return {"cycles": turns_of("barrier_grid", blocks, 128, arguments, (data,)), "blocks": blocks}


def cluster(size: int, nbytes: int) -> Record:
    cycles = turns_of(f"cluster_{size}", size * (96 // size), 128, (np.int32(nbytes),), (), 2 * max(nbytes, 16))
    return {"cycles": cycles, "blocks": size, "bytes": nbytes}


def copy(width: int, kibibytes: int) -> Record:
    cupy = importlib.import_module("cupy")

    source = cupy.zeros(kibibytes << 10, cupy.uint8)
    arguments = (source, np.int32(kibibytes << 10))
    return {"cycles": turns_of(f"copy_{width}", 96, 128, arguments, (), kibibytes << 10), "KiB": kibibytes}


def only_compiled() -> Record:
    """The dry run: checks that the source compiles and that the cubin has every kernel."""
    code = compiled("sm_90")
    names = ["chase", "barrier_block", "barrier_grid", "copy_8", "copy_16", *CHAINS.values()]
    names += ["send_and_return"]
    missing = [name for name in (*names, *(f"cluster_{size}" for size in CLUSTERS)) if name.encode() not in code]
    if missing:
        raise RuntimeError(f"latencies.cu has no {missing}")
    return {"bytes": len(code)}


def items(dry: bool) -> list[Item]:
    if dry:
        return [Item("compile for sm_90", only_compiled)]
    calls: dict[str, Callable[[], Record]] = {name: partial(chain, kernel) for name, kernel in CHAINS.items()}
    calls |= {"l2": partial(chase, 8, True), "memory": partial(chase, 512, False)}
    calls |= {"atomic": partial(of_memory, "chain_atomic"), "fence": partial(of_memory, "chain_fence")}
    calls["barrier"] = lambda: {"cycles": turns_of("barrier_block", 1, 128, (), ())}
    for kind, name in enumerate(GRIDS):
        calls |= {f"grid, {name}, {blocks} blocks": partial(barrier_of_grid, kind, blocks) for blocks in BLOCKS}
    if Place(dry).card().capability >= CLUSTERED:
        calls["cluster"] = partial(cluster, 8, 0)
        calls["remote"] = lambda: {"cycles": turns_of("send_and_return", 2, 1, (), ()) / 2}
        for size in CLUSTERS:
            calls[f"cluster of {size}, 4 KiB"] = partial(cluster, size, 4096)
    for width in (8, 16):
        calls |= {f"L2 to shared by {width} bytes, {kib} KiB": partial(copy, width, kib) for kib in (4, 12, 48)}
    return [Item(name, call, 0.5, 20) for name, call in calls.items()]
