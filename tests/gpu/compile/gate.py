"""Compiles the GPU kernels of a family without a GPU, and prints the resources of each.

    python tests/gpu/compile/gate.py scan/triton_linear   the rows of a source as JSON: each kernel for one target
    python tests/gpu/compile/gate.py --serve              the same for each source on standard input, one per line
    python tests/gpu/compile/gate.py --check each         the differences of all sources from resources.json: each
                                                          kernel for every target; or all: every variant of it
    python tests/gpu/compile/gate.py --write [sources]    every variant of every source, or of those named, for every
                                                          target, into resources.json, after an intended change

tests/<family>/gpu_variants/<name>.py lists the variants of kernels/<family>/<name>. TRITON: a list of (kernel, argument
types, constants, launch options), where a type that ends in ":16" is divisible by 16. NVIDIA: the same for NVIDIA cards
only; BEFORE_BLACKWELL and BLACKWELL: for some of them. COUNTED: rows count the instructions of NVIDIA's machine code,
and those that are tensor-core products. CUDA: a list of macros to define. EXACT: each operation of Triton's code must
round as on the CPU. OLDER_SPILL: {kernel: bytes that it may spill with a Triton older than that of resources.json}.
Run as a separate process, as Triton either interprets or compiles. What was compiled stays in build/gate, under hashes
of source, options and compiler.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
KERNELS = TESTS.parent / "kernels"
CACHE = TESTS.parent / "build" / "gate"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
#: The targets of each list of Triton variants
LISTS = {"TRITON": TARGETS, "NVIDIA": TARGETS[:3], "BEFORE_BLACKWELL": TARGETS[:2], "BLACKWELL": TARGETS[2:3]}

Row = dict[str, int]
#: How much is compiled: see `pairs`
Extent = str


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


def instructions(cubin: bytes) -> Row:
    """Return the number of instructions in a cubin's machine code, and how many are tensor-core products."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([str(tool), "-c", file.name], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)", text, re.MULTILINE)
    return {"instructions": len(names), "products": sum("MMA" in name for name in names)}


#: Instructions that do not round once as IEEE 754 requires, or that flush subnormal numbers to zero
INEXACT = re.compile(r"\.ftz|\bfma\.|\bdiv\.(?!rn)|\.approx")


def triton_row(
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    options: Any,
    target: str,
    exact: bool = False,
    counted: bool = False,
) -> Row:
    import triton
    from triton.backends.compiler import GPUTarget

    # A variant contains the types; a constant argument has none.
    types = {name: "constexpr" if name in constants else signature[name] for name in kernel.arg_names}
    divisible = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(types.values()) if name.endswith(":16")}
    types = {name: kind.removesuffix(":16") for name, kind in types.items()}
    source = triton.compiler.ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=divisible)
    if target.startswith("sm_"):
        built = triton.compile(source, target=GPUTarget("cuda", int(target[3:]), 32), options=options)
        (row,) = usage(built.asm["cubin"]).values()
        row |= instructions(built.asm["cubin"]) if counted else {}
        found = {line.strip() for line in built.asm["ptx"].splitlines() if exact and INEXACT.search(line)}
        assert not {line for line in found if not re.match(r"div\.[su]\d+", line)}, f"{kernel}: {found}"
    else:
        built = triton.compile(source, target=GPUTarget("hip", target, 64), options=options)
        text = built.asm["amdgcn"]
        counts = {key: int(re.search(rf"\.{key}:\s+(\d+)", text)[1]) for key in ("vgpr_count", "vgpr_spill_count")}  # type: ignore[index]
        row = {"registers": counts["vgpr_count"], "shared": 0, "spilled": counts["vgpr_spill_count"]}
    terms = [int(count) for count in re.findall(r"tt\.dot [^:]*: tensor<\d+x(\d+)x", built.asm["ttir"])]
    assert min(terms, default=16) >= 16, f"{kernel}: a product must have 16 terms or more for Triton 3.6, got {terms}"
    return {**row, "shared": built.metadata.shared}


def pairs(
    kernels: Sequence[str], targets: Sequence[Sequence[str]], extent: Extent, first: int = 0
) -> list[tuple[int, str]]:
    """Return the (variant, target) to compile, where variant i belongs to kernels[i] and can be for targets[i].

    each: each kernel for each target, with its variants in turn; one: of these one for each kernel, with the targets in
    turn from number `first` on; all: each variant for each target.
    """
    if extent == "all":
        return [(number, target) for number, its in enumerate(targets) for target in its]
    found = []
    for place, kernel in enumerate(dict.fromkeys(kernels), first):
        own = [number for number, name in enumerate(kernels) if name == kernel]
        its = targets[own[0]]
        several = [(own[step % len(own)], target) for step, target in enumerate(its)]
        found += several if extent == "each" else [several[place % len(its)]]
    return found


def triton_rows(stem: str, extent: Extent) -> tuple[dict[str, Row], set[str]]:
    """Return the rows of what was compiled, and the names of the rows of every variant and target."""
    rows, names = {}, set()
    module = importlib.import_module(f"fastiter.kernels.{stem.replace('/', '.')}")
    for listed, targets in LISTS.items():
        told = []
        named = getattr(variants(stem), listed, [])
        for name, signature, constants, options in named:
            types = " ".join(sorted(set(signature.values())))
            chosen = " ".join([f"{key}={value}" for key, value in {**constants, **options}.items()])
            told.append(f"triton {name} [{types}] {chosen}")
        names |= {f"{text} {target}" for text in told for target in targets}
        kernels = [name for name, *_ in named]
        for number, target in pairs(kernels, [targets] * len(named), extent, stems().index(stem)):
            name, signature, constants, options = named[number]
            how = (getattr(variants(stem), "EXACT", False), getattr(variants(stem), "COUNTED", False))
            row = triton_row(getattr(module, name), signature, constants, options, target, *how)
            rows[f"{told[number]} {target}"] = row
    return rows, names


def cuda_rows(stem: str, extent: Extent) -> tuple[dict[str, Row], set[str]]:
    """Return the rows of what was compiled, and the names of the rows of every variant and target."""
    from fastiter import _nvrtc

    rows: dict[str, Row] = {}
    functions: dict[str, set[str]] = {}
    listed = getattr(variants(stem), "CUDA", [])
    told = [" ".join(f"{key}={value}" for key, value in defines.items()) for defines in listed]
    kinds = [" ".join(defines) for defines in listed]  # code depends on which macros are defined
    targets = [cuda_targets(defines) for defines in listed]
    for number, target in pairs(kinds, targets, extent, stems().index(stem)):
        cubin = _nvrtc.cubin(stem, target, listed[number]).read_bytes()
        for name, row in usage(cubin).items():
            rows[f"cuda {name} {told[number]} {target}"] = row
            functions.setdefault(kinds[number], set()).add(name)
    return rows, {
        f"cuda {name} {text} {target}"
        for text, kind, its in zip(told, kinds, targets, strict=True)
        for name in functions[kind]
        for target in its
    }


def cuda_targets(defines: Mapping[str, object]) -> tuple[str, ...]:
    """Return the NVIDIA targets of a variant; clusters exist from sm_90 on."""
    return TARGETS[1 if "CLUSTER" in defines else 0 : 3]


def older_spill(stem: str) -> dict[str, int]:
    """Return how many bytes kernels may spill: none, but some with a Triton older than the table's."""
    written = json.loads(table(stem.split("/")[0]).read_text())["versions"]["triton"]
    told = [tuple(map(int, re.findall(r"\d+", text)[:2])) for text in (versions()["triton"], written)]
    return getattr(variants(stem), "OLDER_SPILL", {}) if told[0] < told[1] else {}


def rows_of(stem: str, extent: Extent) -> tuple[dict[str, Row], set[str]]:
    """Return the rows of a source that were compiled, none of which spills, and the names of all its rows."""
    listed = LISTS.keys() & vars(variants(stem)).keys()
    rows, names = triton_rows(stem, extent) if listed else ({}, set())
    more, others = cuda_rows(stem, extent)
    rows, names = rows | more, names | others
    may = older_spill(stem)
    spilled = [name for name, row in rows.items() if row["spilled"] > may.get(name.split()[1], 0)]
    if spilled or not rows:
        raise SystemExit(f"{stem}: " + ("spills registers in " + "; ".join(spilled) if rows else "no variant"))
    return rows, names


def as_lines(told: dict[str, Any]) -> str:
    """Format as JSON with one kernel per line."""
    sources = []
    for stem, rows in told["rows"].items():
        lines = [f"   {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
        sources.append(f"  {json.dumps(stem)}: {{\n" + ",\n".join(lines) + "\n  }")
    return f'{{\n "versions": {json.dumps(told["versions"])},\n "rows": {{\n' + ",\n".join(sources) + "\n }\n}\n"


def compiled(stem: str, extent: Extent = "one") -> dict[str, Any]:
    """Return the rows of a source, the names of all its rows, and the versions of the compilers."""
    rows, names = rows_of(stem, extent)
    return {"versions": versions(), "rows": rows, "names": sorted(names)}


def differences(stem: str, told: dict[str, Any]) -> dict[str, tuple[Row | None, Row | None]]:
    """Return the rows that are not those of the table, and the table's, as far as the same compilers wrote it."""
    family, compilers = json.loads(table(stem.split("/")[0]).read_text()), {"triton": "triton", "cuda": "nvrtc"}
    same = [kind for kind, name in compilers.items() if told["versions"][name] == family["versions"][name]]
    expected = family["rows"][stem]
    found = {name: (row, expected.get(name)) for name, row in told["rows"].items() if name.split()[0] in same}
    missing = {name: (None, expected.get(name)) for name in expected.keys() ^ set(told["names"])}
    return {name: pair for name, pair in {**found, **missing}.items() if pair[0] != pair[1] or name in missing}


def check(extent: Extent) -> int:
    """Print the rows that differ from the tables; return whether there are any."""
    with ProcessPoolExecutor() as pool:
        told = dict(zip(stems(), pool.map(partial(compiled, extent=extent), stems()), strict=True))
    found = {stem: differences(stem, its) for stem, its in told.items()}
    wrong = [f"{stem}: {name}: {rows}" for stem, named in found.items() for name, rows in named.items()]
    print("\n".join(wrong) or f"{len(found)} sources as listed")
    return int(bool(wrong))


def serve() -> None:
    """Compile the sources on standard input; print {"error": text} for one that fails."""
    for line in sys.stdin:
        try:
            told = compiled(line.strip())
        except (Exception, SystemExit):
            told = {"error": traceback.format_exc()}
        print(json.dumps(told), flush=True)


def write(sources: list[str]) -> None:
    """Compile sources for every target, and replace their rows in the tables of their families."""
    for family in sorted({stem.split("/")[0] for stem in sources}):
        own = [stem for stem in stems() if stem.startswith(f"{family}/")]
        now = json.loads(table(family).read_text()) if table(family).exists() else {"rows": {}, "versions": versions()}
        if now["versions"] != versions() and set(own) - set(sources):
            raise SystemExit(f"{family}: its table has other compilers, {now['versions']}: name all of its sources")
        stale = set(sources) | (set(own) - set(now["rows"]))
        rows = {stem: rows_of(stem, "all")[0] if stem in stale else now["rows"][stem] for stem in own}
        table(family).write_text(as_lines({"versions": versions(), "rows": rows}))


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--write"]:
        write(arguments[1:] or stems())
    elif arguments[:1] == ["--check"]:
        raise SystemExit(check(arguments[1]))
    elif arguments == ["--serve"]:
        serve()
    else:
        print(json.dumps(compiled(arguments[0])))


if __name__ == "__main__":
    os.environ.setdefault("TRITON_CACHE_DIR", str(CACHE / "triton"))
    os.environ.setdefault("FASTITER_CACHE", str(CACHE / "cubins"))
    sys.path.insert(0, str(TESTS.parent))  # variants may share code in tests/<family>/
    main(sys.argv[1:])
