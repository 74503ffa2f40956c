"""Compiles the GPU kernels of a family for every target, without a card, and prints the resources of each.

    python tests/gpu/compile/gate.py scan/triton_linear   the rows of a source as JSON
    python tests/gpu/compile/gate.py --write              all sources', into resources.json, after an intended change

tests/<family>/gpu_variants/<name>.py names the variants of kernels/<family>/<name>: TRITON is a list of (kernel, types
of its arguments, constants, options of the launch), a type that ends in ":16" divisible by 16; NVIDIA the same for
NVIDIA cards only; CUDA a list of macros to define; EXACT: each operation of Triton's code has to round as the CPU's.
Run as a separate process, as Triton either interprets or compiles.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
KERNELS = TESTS.parent / "kernels"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")

Row = dict[str, int]


def stems() -> list[str]:
    """Return the sources that have variants, as <family>/<name>."""
    return sorted(f"{path.parts[-3]}/{path.stem}" for path in TESTS.glob("*/gpu_variants/*.py"))


def table(family: str) -> Path:
    """Return the path of the expected resources of a family's kernels."""
    return TESTS / family / "gpu_variants" / "resources.json"


def variants(stem: str) -> Any:
    family, name = stem.split("/")
    spec = importlib.util.spec_from_file_location(
        f"{family}_{name}_variants", TESTS / family / "gpu_variants" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions() -> dict[str, str]:
    import triton

    from fastiter import _nvrtc

    return {"triton": triton.__version__, "nvrtc": "{}.{}".format(*_nvrtc.version())}


def usage(cubin: bytes) -> dict[str, Row]:
    """Return the resources of each function of a cubin: registers per thread, static shared memory, spilled bytes."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", done.stdout + done.stderr)
    return {
        name: {"registers": int(registers), "shared": int(shared), "spilled": int(stack) + int(local)}
        for name, registers, stack, shared, local in found
    }


#: Instructions that do not round once as IEEE 754 requires, or that flush subnormal numbers to zero
INEXACT = re.compile(r"\.ftz|\bfma\.|\bdiv\.(?!rn)|\.approx")


def triton_row(
    kernel: Any, signature: dict[str, str], constants: dict[str, Any], options: Any, target: str, exact: bool = False
) -> Row:
    import triton
    from triton.backends.compiler import GPUTarget

    # A variant gives the types; a constant argument has none.
    types = {name: "constexpr" if name in constants else signature[name] for name in kernel.arg_names}
    divisible = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(types.values()) if name.endswith(":16")}
    types = {name: kind.removesuffix(":16") for name, kind in types.items()}
    source = triton.compiler.ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=divisible)
    if target.startswith("sm_"):
        built = triton.compile(source, target=GPUTarget("cuda", int(target[3:]), 32), options=options)
        (row,) = usage(built.asm["cubin"]).values()
        found = {line.strip() for line in built.asm["ptx"].splitlines() if exact and INEXACT.search(line)}
        assert not {line for line in found if not re.match(r"div\.[su]\d+", line)}, f"{kernel}: {found}"
    else:
        built = triton.compile(source, target=GPUTarget("hip", target, 64), options=options)
        text = built.asm["amdgcn"]
        counts = {key: int(re.search(rf"\.{key}:\s+(\d+)", text)[1]) for key in ("vgpr_count", "vgpr_spill_count")}  # type: ignore[index]
        row = {"registers": counts["vgpr_count"], "shared": 0, "spilled": counts["vgpr_spill_count"]}
    return {**row, "shared": built.metadata.shared}


def triton_rows(stem: str) -> dict[str, Row]:
    rows = {}
    module = importlib.import_module(f"fastiter.kernels.{stem.replace('/', '.')}")
    named = [(variant, TARGETS) for variant in getattr(variants(stem), "TRITON", [])]
    named += [(variant, TARGETS[:3]) for variant in getattr(variants(stem), "NVIDIA", [])]
    for (name, signature, constants, options), targets in named:
        told = " ".join([f"{key}={value}" for key, value in {**constants, **options}.items()])
        types = " ".join(sorted(set(signature.values())))
        for target in targets:
            rows[f"triton {name} [{types}] {told} {target}"] = triton_row(
                getattr(module, name), signature, constants, options, target, getattr(variants(stem), "EXACT", False)
            )
    return rows


def cuda_rows(stem: str) -> dict[str, Row]:
    from fastiter import _nvrtc

    rows = {}
    for defines in getattr(variants(stem), "CUDA", []):
        told = " ".join(f"{key}={value}" for key, value in defines.items())
        for target in TARGETS[:3]:
            cubin = _nvrtc.compile_source(_nvrtc.source_of(stem), stem, target, defines)
            for name, row in usage(cubin).items():
                rows[f"cuda {name} {told} {target}"] = row
    return rows


def rows_of(stem: str) -> dict[str, Row]:
    rows = triton_rows(stem) if hasattr(variants(stem), "TRITON") else {}
    return rows | cuda_rows(stem)


def as_lines(told: dict[str, Any]) -> str:
    """Format as JSON with one kernel per line."""
    sources = []
    for stem, rows in told["rows"].items():
        lines = [f"   {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
        sources.append(f"  {json.dumps(stem)}: {{\n" + ",\n".join(lines) + "\n  }")
    return f'{{\n "versions": {json.dumps(told["versions"])},\n "rows": {{\n' + ",\n".join(sources) + "\n }\n}\n"


def main(arguments: list[str]) -> None:
    if arguments == ["--write"]:
        for family in sorted({stem.split("/")[0] for stem in stems()}):
            rows = {stem: rows_of(stem) for stem in stems() if stem.startswith(f"{family}/")}
            table(family).write_text(as_lines({"versions": versions(), "rows": rows}))
    else:
        print(json.dumps({"versions": versions(), "rows": {stem: rows_of(stem) for stem in arguments}}))


if __name__ == "__main__":
    main(sys.argv[1:])
