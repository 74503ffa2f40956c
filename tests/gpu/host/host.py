"""Runs the CUDA kernels, kernels/<family>/*.cu, on the CPU: as C++ over shim.hpp, optionally under a sanitizer.

`Host` stands in for `fastiter._torch.launch.launch_cuda`: it takes the same arguments, so that the tests use the same
code for preparing a launch as on a card. Each launch is a process; a sanitizer that finds a fault ends it, and its
report becomes the error.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
KERNELS = HERE.parents[2] / "kernels"
#: Sizes are small, so compilation takes nearly all of the time; with -O0 it takes two thirds as long as with -O1.
SANITIZERS = {
    "none": ("-O0",),
    "address": ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-O0", "-g1", "-fsanitize=thread"),
}


def kernels_of(source: str) -> list[str]:
    """Return the names of the kernels of a .cu: `KERNEL name(` or `KERNEL __launch_bounds__(n) name(`."""
    return re.findall(r"^KERNEL\s+(?:IN_CLUSTER\s+)?(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", source, re.MULTILINE)


def family_headers(source: Path) -> list[Path]:
    """Return the headers of a source without those of kernels/common, which shim.hpp replaces."""
    return sorted(source.parent.glob("*.cuh"))


def flags_of(sanitizer: str) -> list[str]:
    return [*SANITIZERS[sanitizer], "-std=c++20", "-Wall", "-Wno-unknown-pragmas", "-ffp-contract=off", "-pthread"]


@functools.cache
def version() -> str:
    """Return a hash of what all programs share, as a folder such as /tmp keeps those of earlier versions."""
    texts = [(HERE / name).read_text() for name in ("shim.hpp", "runtime.cpp", "host.py")]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def programs_of(folder: Path) -> Path:
    """Return the folder of programs: beside that of a test, or beside the folders of pytest-xdist's workers."""
    own = folder.parent
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "programs" / version()


def built(out: Path, command: Sequence[str]) -> Path:
    """Create a file by a command with its path as last argument, unless this or another process has done so."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            done = subprocess.run([*command, str(out)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    return out


@functools.cache
def common_in(folder: Path, sanitizer: str) -> tuple[Path, Path]:
    """Return shim.hpp, precompiled by GCC for all programs, and their common main program, runtime.cpp."""
    shim, runtime = folder / sanitizer / "shim.hpp", folder / sanitizer / "runtime.o"
    built(shim, ["cp", str(HERE / shim.name)])
    built(shim.with_name("shim.hpp.gch"), ["g++", *flags_of(sanitizer), "-x", "c++-header", str(shim), "-o"])
    flags = ["-DFIBERS_RACE" if flag == "-fsanitize=thread" else flag for flag in flags_of(sanitizer)]
    built(runtime, ["g++", *flags, "-c", str(HERE / "runtime.cpp"), "-o"])
    return shim, runtime


def program(source: Path, folder: Path, sanitizer: str = "none", defines: Mapping[str, object] | None = None) -> Path:
    """Compile a .cu into a program that runs one launch; tests with the same sources and macros share it."""
    options = [f"-D{name}={value}" for name, value in (defines or {}).items()]
    headers = family_headers(source)
    texts = [path.read_text() for path in (*headers, source)]
    key = hashlib.sha256("\0".join([*texts, sanitizer, *options]).encode()).hexdigest()[:16]
    shared = programs_of(folder)
    shim, runtime = common_in(shared, sanitizer)
    out = shared / sanitizer / f"{source.parent.name}-{source.stem}-{key}"
    included = "".join(f'#include "{path}"\n' for path in [shim, *headers, source])
    named = ", ".join(f"NAMED({kernel})" for kernel in kernels_of(texts[-1]))
    text = (
        f"{included}const host::Kernel* host::find(const char* name) {{\n"
        f"    static constexpr Kernel kernels[] = {{{named}}};\n"
        "    for (const Kernel& each : kernels)\n        if (std::strcmp(name, each.name) == 0) return &each;\n"
        "    return nullptr;\n}\n"
    )
    main = folder / f"{out.name}.cpp"
    main.write_text(text)
    return built(out, ["g++", *flags_of(sanitizer), *options, str(main), str(runtime), "-o"])


class Host:
    """Launches kernels on the CPU and records their names."""

    def __init__(self, folder: Path, sanitizer: str = "none") -> None:
        self.folder, self.sanitizer = folder, sanitizer
        self.launched: list[str] = []

    def __call__(
        self,
        stem: str,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[torch.Tensor | np.generic | None],
        *,
        shared: int = 0,
        cooperative: bool = False,
        defines: Mapping[str, object] | None = None,
    ) -> None:
        self.launched.append(kernel)
        path = KERNELS / f"{stem}.cu"
        binary = program(path, self.folder, self.sanitizer, defines)
        cluster = int(str((defines or {}).get("CLUSTER", 1)))
        self.run(binary, kernel, grid, block, args, shared, cooperative, cluster)

    def run(
        self,
        binary: Path,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        shared: int = 0,
        cooperative: bool = False,
        cluster: int = 1,
    ) -> None:
        """Run one launch, and copy the resulting memory into the tensors."""
        memory: dict[int, torch.UntypedStorage] = {}
        rows: list[tuple[int, bytes]] = []
        for x in args:
            if x is None:
                rows.append((-1, bytes(8)))
            elif isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                index = list(memory).index(storage.data_ptr()) if storage.data_ptr() in memory else len(memory)
                memory[storage.data_ptr()] = storage
                rows.append((index, struct.pack("q", x.storage_offset() * x.element_size())))
            else:
                assert isinstance(x, np.generic), f"{kernel}: a number must have a NumPy type, got {type(x)}"
                rows.append((-2, x.tobytes().ljust(8, b"\0")))
        sizes = [*three(grid), *three(block), shared, cooperative, cluster, len(memory)]
        if 0 in sizes[:6]:
            raise ValueError(f"{kernel}: a launch of {grid} blocks of {block} threads: a card refuses it")
        if sizes[0] % cluster or not 1 <= cluster <= 16 or (cluster > 1 and cooperative):
            raise ValueError(f"{kernel}: a launch of {grid} blocks in clusters of {cluster}: a card refuses it")
        parts = [struct.pack(f"{len(sizes)}q", *map(int, sizes))]
        for storage in memory.values():
            parts += [struct.pack("q", storage.nbytes()), bytes_of(storage).numpy().tobytes()]
        parts.append(struct.pack("q", len(rows)))
        parts += [struct.pack("q", which) + value for which, value in rows]
        given, found = self.folder / "given", self.folder / "found"
        given.write_bytes(b"".join(parts))
        done = subprocess.run([str(binary), kernel, str(given), str(found)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{kernel}: {done.stderr[-4000:]}")
        left = found.read_bytes()
        for storage in memory.values():
            size = storage.nbytes()
            if size:
                bytes_of(storage).copy_(torch.frombuffer(bytearray(left[:size]), dtype=torch.uint8))
            left = left[size:]


def three(sizes: Sequence[int]) -> list[int]:
    return [*sizes, 1, 1][:3]


def bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return a view of all bytes of a storage."""
    return torch.empty(0, dtype=torch.uint8).set_(storage)
