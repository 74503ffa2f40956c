"""The rules of CONTRIBUTING.md about which module may import which, read from the sources."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python"
FRAMEWORKS = {"torch", "triton", "cupy"}
CPU_HEADERS = {"<cstddef>", "<cstdint>", "<utility>", "<immintrin.h>", "<arm_neon.h>"}
LONGEST_FILE = 420


def every(folder: str, *suffixes: str) -> pytest.MarkDecorator:
    """Parametrise a test over the files below a folder."""
    files = sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    assert files, folder
    return pytest.mark.parametrize("path", files, ids=[str(path.relative_to(ROOT)) for path in files])


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
        elif inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, package, inside_functions=inside_functions)


def imports_of(path: Path, *, inside_functions: bool = True) -> set[str]:
    package = ".".join(path.relative_to(PACKAGE).parent.parts)
    return set(imports(ast.parse(path.read_text()), package, inside_functions=inside_functions))


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


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


@every("python/fastiter", ".py")
def test_imports_go_down_only(path: Path) -> None:
    layer = path.relative_to(PACKAGE / "fastiter").parts[0]
    found = imports_of(path)
    if layer != "torch":
        assert not {name for name in found if is_in(name, "torch") or is_in(name, "fastiter.torch")}
        at_import = imports_of(path, inside_functions=False)
        assert not {name for name in at_import if name.split(".")[0] in FRAMEWORKS}
    if layer == "reference":
        allowed = {"numpy", *sys.stdlib_module_names}
        assert not {n for n in found if n.split(".")[0] not in allowed and not is_in(n, "fastiter.reference")}


@every("kernels/triton", ".py")
def test_triton_kernels_know_triton_alone(path: Path) -> None:
    tree = ast.parse(path.read_text())
    found = set(imports(tree, "fastiter.kernels.triton", inside_functions=True))
    assert not {name for name in found if not is_in(name, "triton") and not is_in(name, "fastiter.kernels.triton")} - {
        "__future__.annotations"
    }
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert all(any("triton" in ast.unparse(mark) for mark in node.decorator_list) for node in functions)


@every("kernels/cuda", ".cu", ".cuh")
def test_cuda_kernels_include_nothing(path: Path) -> None:
    assert not re.findall(r"^\s*#\s*include.*", path.read_text(), re.MULTILINE)


@every("csrc/cpu", ".cpp", ".hpp")
def test_kernels_know_neither_python_nor_the_standard_library(path: Path) -> None:
    included = re.findall(r"^\s*#\s*include\s*(\S+)", path.read_text(), re.MULTILINE)
    ours = {f'"{file.name}"' for file in path.parent.iterdir()}
    assert set(included) <= CPU_HEADERS | ours


def test_import_brings_in_numpy_alone() -> None:
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
def test_import_leaves_out_what_takes_long(importing: str, slow: list[str]) -> None:
    if "torch" in importing:
        pytest.importorskip("torch")
    script = f"{importing}\nimport sys; print(*(name for name in {slow} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("folder", ["csrc", "kernels", "python"])
def test_files_are_short(folder: str) -> None:
    sources = [
        path for path in (ROOT / folder).rglob("*") if path.suffix in {".cpp", ".cu", ".cuh", ".hpp", ".py", ".pyi"}
    ]
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in sources}
    assert not {name: count for name, count in lines.items() if count > LONGEST_FILE}
