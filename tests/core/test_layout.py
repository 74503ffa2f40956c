"""The rules of CONTRIBUTING.md about the tree and about which module may import which, read from the sources."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python"
FRAMEWORKS = {"torch", "triton", "cupy"}
#: Headers that kernels and their callers share
SHARED_HEADERS = {'"core/tables.hpp"'}
CPU_HEADERS = {"<cstddef>", "<cstdint>", "<utility>", "<immintrin.h>", "<arm_neon.h>"}
LONGEST_FILE = 420
#: Maximum number of files in one folder
FULLEST = 20
#: Families that use another family: each new pair is a decision, not an accident
PYTHON_EDGES = {
    "accelerate": {"decode", "delta", "rnn", "scan", "ssm"},
    "bcd": {"fixedpoint"},
    "decode": {"accelerate", "quant"},
    "fixedpoint": {"relax"},
    "newton": {"scan", "rnn"},
    "quant": {"rnn"},
    "rnn": {"tune"},
    "ssm": {"delta", "scan"},
}
CPP_EDGES = {"rnn": {"dense"}, "newton": {"rnn"}}
#: Files that import modules by names in strings: functions for CuPy arrays, families, names and ops on first access,
#: GPU kernels
IMPORT_BY_NAME = {
    "fastiter/__init__.py",
    "fastiter/_backend.py",
    "fastiter/_public.py",
    "fastiter/_torch/launch.py",
    "fastiter/_torch/op.py",
}
#: Families without kernels
WITHOUT_KERNELS = {"accelerate", "tune"}

FAMILIES = {path.name for path in (PACKAGE / "fastiter").iterdir() if (path / "_torch").is_dir()} | WITHOUT_KERNELS
CPP_FAMILIES = {path.name for path in (ROOT / "csrc").iterdir() if (path / "cpu").is_dir()} - {"core"}


def files(folder: str, *suffixes: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def violations(check: Callable[[str, str], Any], paths: Iterable[Path], base: Path) -> dict[str, Any]:
    """Return what a check of (source, name below ``base``) finds in the files in which it finds something."""
    paths = list(paths)
    assert paths
    names = {str(path.relative_to(base)): path.read_text() for path in paths}
    return {name: wrong for name, source in names.items() if (wrong := check(source, name))}


# ---- Python ---------------------------------------------------------------------------------------------------------


@functools.cache
def parsed(source: str) -> ast.Module:
    """Return the tree of a file, which several rules read."""
    return ast.parse(source)


def imports(node: ast.AST, package: str, *, inside_functions: bool) -> Iterator[str]:
    """Yield the absolute name of each module that is imported below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package.split(".")[: 1 - child.level or None] if child.level else []
            parent = ".".join([*base, *filter(None, [child.module])])
            # `from . import torch` names a module, `from .torch import lstm` something in it: the prefix decides
            yield from (f"{parent}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.expr):  # which contains no statement
            continue
        elif inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(child, package, inside_functions=inside_functions)


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def wrong_imports(source: str, name: str) -> set[str]:
    """Return the imports of a file of the package, such as ``fastiter/rnn/_cells.py``, that break the rules."""
    parts = name.split("/")
    if name == "fastiter/_self_benchmark.py":  # a program that uses the whole package and that no module imports
        return set()
    tree, package = parsed(source), ".".join(parts[:-1])
    found = set(imports(tree, package, inside_functions=True))
    at_import = set(imports(tree, package, inside_functions=False))
    family = parts[1] if parts[1] in FAMILIES else None
    facade = parts[1] in ("torch", "reference") or parts[1:] in (["__init__.py"], ["experimental.py"])
    wrong = set()
    if "_torch" not in parts and parts[1] != "torch":
        wrong |= {module for module in found if is_in(module, "torch") or "_torch" in module.split(".")}
        wrong |= {module for module in found if is_in(module, "fastiter.torch")}
        wrong |= {module for module in at_import if module.split(".")[0] in FRAMEWORKS}
    if not facade:
        wrong |= {module for module in found if is_in(module, "fastiter.torch") or is_in(module, "fastiter.reference")}
        allowed = {family, *PYTHON_EDGES.get(family or "", ())}
        wrong |= {module for module in found if other_family(module) not in {None, *allowed}}
    if "reference" not in name and not facade:
        wrong |= {module for module in outside_of_a_row(tree, package) if "reference" in module.split(".")}
    if "reference" in name:
        known = {"numpy", *sys.stdlib_module_names}
        wrong |= {module for module in found if module.split(".")[0] not in known and "reference" not in module}
    return wrong


def outside_of_a_row(tree: ast.Module, package: str) -> set[str]:
    """Return the imports of a file, except in functions that are the row "reference" of a table of backends."""
    tables = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    pairs = [pair for table in tables for pair in zip(table.keys, table.values, strict=True)]
    rows = {ast.unparse(value) for key, value in pairs if isinstance(key, ast.Constant) and key.value == "reference"}
    others = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name in rows)]
    return set(imports(ast.Module(others, []), package, inside_functions=True))


def other_family(module: str) -> str | None:
    """Return the family that a module of the package belongs to, None for shared ones and other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "fastiter" and len(parts) > 1 and parts[1] in FAMILIES else None


def test_imports_are_resolved_and_found_at_any_depth() -> None:
    source = (
        "import numpy as np\n"
        "from .. import _core\n"
        "if True:\n    from .rnn import lstm\n"
        "def f():\n    import torch.nn\n    from . import nn\n"
    )
    anywhere = set(imports(ast.parse(source), "fastiter.torch", inside_functions=True))
    at_import = set(imports(ast.parse(source), "fastiter.torch", inside_functions=False))
    assert at_import == {"numpy", "fastiter._core", "fastiter.torch.rnn.lstm"}
    assert anywhere == at_import | {"torch.nn", "fastiter.torch.nn"}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("fastiter/rnn/_cells.py", "import torch"),
        ("fastiter/rnn/_cells.py", "def f():\n    import torch"),
        ("fastiter/rnn/_cells.py", "from ._torch.ops import rnn_fwd"),
        ("fastiter/rnn/_cells.py", "import cupy"),
        ("fastiter/rnn/_torch/ops.py", "from ...torch import lstm"),
        ("fastiter/rnn/_torch/ops.py", "from ...reference import rnn"),
        ("fastiter/rnn/_torch/ops.py", "from ...scan._torch import ops"),
        ("fastiter/_check.py", "from .rnn._cells import CELLS"),
        ("fastiter/_torch/ops.py", "from ..rnn import lstm"),
        ("fastiter/quant/_fixed/growth.py", "from ..reference import fixed as reference"),
        ("fastiter/quant/_torch/hls/layers.py", "from ...reference.fixed import product_format"),
        ("fastiter/rnn/_functional.py", "def _cpu():\n    from . import reference\nTABLE = {'cpu': _cpu}"),
        ("fastiter/rnn/reference.py", "import scipy"),
        ("fastiter/rnn/reference.py", "from ._cells import CELLS"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str) -> None:
    assert wrong_imports(source, name)


def test_the_row_of_the_specification_may_import_it() -> None:
    source = "def _slow():\n    from . import reference\nTABLE = {'reference': _slow}"
    assert not wrong_imports(source, "fastiter/rnn/_functional.py")


def test_imports_lead_only_to_lower_layers() -> None:
    assert violations(wrong_imports, files("python/fastiter", ".py"), PACKAGE) == {}


def statements(source: str) -> set[str]:
    """Return the types of statements of a file, with the names of assigned variables and called functions."""
    kinds = set()
    for node in ast.parse(source).body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                pass
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=[]) if all(
                isinstance(each, (ast.Import, ast.ImportFrom)) for each in body
            ):
                pass
            case ast.Expr(value=ast.Call(func=ast.Name(id="publish" | "_publish"))):
                pass
            case _:
                kinds.add(ast.unparse(node))
    return kinds


def test_code_in_a_facade_is_found() -> None:
    assert not statements('"""Doc."""\nfrom .a import b\n__all__ = ["b"]\npublish(globals())')
    assert not statements("if TYPE_CHECKING:\n    from .a import b") and statements("if TYPE_CHECKING:\n    x = 1")
    assert statements("def f(): pass") and statements("x = 1") and statements("register()")


def test_facades_only_import_and_name() -> None:
    families = [PACKAGE / f"fastiter/{name}/__init__.py" for name in sorted(FAMILIES)]
    paths = [*files("python/fastiter/torch", ".py"), PACKAGE / "fastiter/experimental.py", *families]
    assert violations(lambda source, _: statements(source), paths, PACKAGE) == {}


def hidden_imports(source: str, name: str) -> set[str]:
    """Return the calls that import a module of the package by a string, which the rules above do not see.

    A ``Cuda(module, function)`` is such a call, too, except as the row "cuda" of a table of backends.
    """
    tree = parsed(source)
    tables = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    pairs = [pair for table in tables for pair in zip(table.keys, table.values, strict=True)]
    rows = {value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "cuda"}
    found = set()
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        called = ast.unparse(call.func).rpartition(".")[2].strip("_")
        if called in ("import_module", "import") and name not in IMPORT_BY_NAME:
            first = call.args[0] if call.args else None
            is_foreign = isinstance(first, ast.Constant) and not is_in(str(first.value), "fastiter")
            found |= set() if is_foreign else {ast.unparse(call)}
        elif called == "Cuda" and call not in rows:
            found.add(ast.unparse(call))
    return found


@pytest.mark.parametrize(
    "source",
    [
        'import_module("fastiter.torch")',
        'importlib.import_module(f"fastiter.{name}")',
        "importlib.import_module(name)",
        '__import__("fastiter.torch")',
        'run = Cuda("fastiter.torch", "lstm")',
        'TABLE = {"cpu": Cuda("fastiter.torch", "lstm")}',
    ],
)
def test_a_hidden_import_is_found(source: str) -> None:
    assert hidden_imports(source, "fastiter/rnn/_functional.py")
    assert not hidden_imports('importlib.import_module("cupy")', "fastiter/rnn/_functional.py")
    assert not hidden_imports('T = {"cuda": Cuda("fastiter.torch", "lstm")}', "fastiter/rnn/_functional.py")


def test_modules_are_imported_by_statements() -> None:
    assert violations(hidden_imports, files("python/fastiter", ".py"), PACKAGE) == {}


def test_importing_fastiter_imports_only_numpy() -> None:
    script = (
        "import sys, numpy; before = set(sys.modules); import fastiter\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"fastiter", "numpy"}


@pytest.mark.parametrize(
    ("importing", "slow"),
    [
        ("import fastiter", ["fastiter.quant", "fastiter.relax", "fastiter.tune"]),
        ("import fastiter.torch, fastiter.torch.nn", ["torch._dynamo", "torch._inductor"]),
    ],
)
def test_slow_modules_are_not_imported(importing: str, slow: list[str]) -> None:
    if "torch" in importing:
        pytest.importorskip("torch")
    script = f"{importing}\nimport sys; print(*(name for name in {slow} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ---- Kernels --------------------------------------------------------------------------------------------------------


def foreign_parts(source: str, name: str) -> list[str]:
    """Return the imports of a Triton kernel's file from other places, and its functions that are no kernels."""
    package = ".".join(["fastiter.kernels", *Path(name).parts[:-1]])
    shared = (package, "triton", "fastiter.kernels.common")
    tree = ast.parse(source)
    found = set(imports(tree, package, inside_functions=True)) - {"__future__.annotations"}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    hosts = [node.name for node in functions if not any("triton" in ast.unparse(mark) for mark in node.decorator_list)]
    return [*(module for module in found if not any(is_in(module, known) for known in shared)), *hosts]


def test_triton_kernels_import_only_triton() -> None:
    paths = [path for path in files("kernels", ".py") if path.name != "__init__.py"]
    assert violations(foreign_parts, paths, ROOT / "kernels") == {}
    assert foreign_parts("import numpy\ndef f(): pass", "rnn/a.py") == ["numpy", "f"]
    assert foreign_parts("from ..scan import a\nfrom ..common import b", "rnn/c.py") == ["fastiter.kernels.scan.a"]


def test_only_short_axes_of_grids_are_not_the_first() -> None:
    """Axes 1 and 2 of a grid end at 65,535 programs, which large batches exceed, and axis 0 at 2**31 - 1.

    The launcher of the recurrences, whose axis 1 has the heads, refuses more of them.
    """
    sources = {str(path): path.read_text() for path in files("kernels", ".py")}
    assert sum("tl.program_id(0)" in source for source in sources.values()) > 5
    others = re.compile(r"\b(program_id|num_programs)\((?!0\)|axis=0\))")
    found = [path for path, source in sources.items() if others.search(source)]
    assert [path.rpartition("kernels/")[2] for path in found] == ["rnn/triton_recurrence.py"]


def test_cuda_kernels_include_nothing() -> None:
    includes = re.compile(r"^\s*#\s*include.*", re.MULTILINE)
    assert violations(lambda source, _: includes.findall(source), files("kernels", ".cu", ".cuh"), ROOT) == {}


def wrong_includes(source: str, name: str) -> list[str]:
    """Return the includes of a file of csrc/, such as ``rnn/cpu/f32.cpp``, that break the rules."""
    parts = name.split("/")
    family, is_kernel = parts[0] if len(parts) > 1 else None, "cpu" in parts
    wrong = []
    for included in re.findall(r"^\s*#\s*include\s*(\S+)", source, re.MULTILINE):
        if included.startswith("<"):
            wrong += [included] if is_kernel and included not in CPU_HEADERS else []
            continue
        to = included.strip('"').split("/")
        allowed = {family, "core", *CPP_EDGES.get(family or "", ())} if family else {*CPP_FAMILIES, "core", to[0]}
        if family == "core" and to[0] == "third_party":
            continue
        if to[0] not in allowed or (is_kernel and "cpu" not in to and included not in SHARED_HEADERS):
            wrong.append(included)
    return wrong


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("rnn/cpu/f32.cpp", "#include <vector>"),
        ("rnn/cpu/f32.cpp", '#include "rnn/run.hpp"'),
        ("rnn/cpu/f32.cpp", '#include "scan/cpu/kernels.hpp"'),
        ("rnn/cpu/f32.cpp", '#include "cells.hpp"'),
        ("scan/bindings.cpp", '#include "rnn/run.hpp"'),
        ("core/threads.cpp", '#include "rnn/run.hpp"'),
    ],
)
def test_a_wrong_include_is_found(name: str, source: str) -> None:
    assert wrong_includes(source, name) and not wrong_includes('#include "core/cpu/simd.hpp"', name)


def test_includes_lead_only_to_lower_layers() -> None:
    program = ROOT / "csrc/core/native_levels.cpp"  # which CMake compiles and runs
    paths = [path for path in files("csrc", ".cpp", ".hpp") if path != program]
    assert len(paths) > 100 and violations(wrong_includes, paths, ROOT / "csrc") == {}


# ---- The tree -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["python/fastiter", "tests", "docs", "csrc", "bench"])
def test_every_family_has_a_folder(folder: str) -> None:
    expected = FAMILIES if folder in ("python/fastiter", "tests", "docs") else FAMILIES - WITHOUT_KERNELS
    assert {name for name in expected if not (ROOT / folder / name).is_dir()} == set()


@pytest.mark.parametrize("folder", ["csrc", "kernels", "python", "tests", "bench", "docs"])
def test_folders_are_small(folder: str) -> None:
    tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    counts: dict[str, int] = {}
    for name in tracked.split():
        counts[name.rpartition("/")[0]] = counts.get(name.rpartition("/")[0], 0) + 1
    counts.pop("docs/images/gallery", None)  # a figure for each example
    assert not {name: count for name, count in counts.items() if count > FULLEST}


@pytest.mark.parametrize("folder", ["csrc", "kernels", "python"])
def test_files_are_short(folder: str) -> None:
    sources = files(folder, ".cpp", ".cu", ".cuh", ".hpp", ".py", ".pyi")  # third_party has only .h files
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in sources}
    assert not {name: count for name, count in lines.items() if count > LONGEST_FILE}
