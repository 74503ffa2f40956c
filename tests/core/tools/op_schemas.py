"""python -m tests.core.tools.op_schemas: write python/fastiter/_torch/schemas.py from the ops that the package defines.

An op's schema follows from its call and its implementations. The table repeats it, so that `import fastiter.torch` can
register all ops without importing their families; tests/core/tensors/test_torch_op_schemas.py compares the two.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fastiter.torch
from fastiter._torch.op import OPS, Op, schema_of

FILE = Path(fastiter.torch.__file__).parents[1] / "_torch" / "schemas.py"
#: Families whose functions on tensors are not in a module fastiter.torch.<family>
_AT_TOP = ("delta", "newton", "rnn", "scan")
_HEAD = '''"""Schemas of all ops by the module to import before they run, written by tests/core/tools/op_schemas.py."""

# ruff: noqa: E501

from __future__ import annotations

'''


def import_all() -> None:
    for name in fastiter.torch.__all__:
        getattr(fastiter.torch, name)


def module_of(op: Op) -> str:
    """Return the module that defines an op and its implementation for CUDA tensors, relative to fastiter._torch."""
    where = op.call.__module__.removeprefix("fastiter.")
    family = where.split(".")[0]
    if family == "_torch" or where.endswith("ops_wkv"):
        return ("." if family == "_torch" else "..") + where.removeprefix("_torch.")
    return f"..{family}._torch.functional" if family in _AT_TOP else f"..torch.{family}"


def schemas() -> dict[str, dict[str, str]]:
    """Return the table that the package's ops give."""
    import_all()
    own = sorted((name, op) for name, op in OPS.items() if op.call.__module__.startswith("fastiter."))
    table: dict[str, dict[str, str]] = {module: {} for module in sorted({module_of(op) for _, op in own})}
    for name, op in own:
        table[module_of(op)][name] = schema_of(op.call, op.fake)
    return table


def on_cpu_only() -> tuple[str, ...]:
    """Return the names of the ops without an implementation for CUDA tensors."""
    import_all()
    return tuple(sorted(name for names in schemas().values() for name in names if OPS[name].cuda is None))


def source() -> str:
    ends = "#: Ops without an implementation for CUDA tensors\n" + f"ON_CPU_ONLY = {on_cpu_only()!r}\n"
    return f"{_HEAD}SCHEMAS = {schemas()!r}\n\n{ends}"


def formatted(text: str) -> str:
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(FILE), "-"]
    return subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    FILE.write_text(formatted(source()))
