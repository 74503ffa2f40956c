"""The walk of a public call through the package: how many functions and files it needs, and how often it changes file.

    python -m tests.core.walks            prints a table of the calls below
    python -m tests.core.walks NAME       prints the functions that calls whose names contain NAME enter, in order

A call is repeated before it is followed, so that caches are filled and modules are imported; numbers are those of the
package's Python functions alone, whatever the compiled ones do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastiter

PACKAGE = Path(fastiter.__file__).parent
Call = Callable[[], Any]


class Walk(NamedTuple):
    """The numbers of different functions and files of a call, and of the changes from one file to another."""

    functions: int
    files: int
    changes: int


def entered(call: Call) -> list[tuple[str, str]]:
    """Return the file and the name of each function of the package that a call enters, in order."""
    for _ in range(2):
        call()
    names: list[tuple[str, str]] = []

    def follow(frame: Any, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            names.append(
                (path.relative_to(PACKAGE).as_posix(), f"{frame.f_code.co_name}:{frame.f_code.co_firstlineno}")
            )

    sys.setprofile(follow)
    try:
        call()
    finally:
        sys.setprofile(None)
    return names


def walk(call: Call) -> Walk:
    """Return the numbers of a call."""
    names = entered(call)
    files = [file for file, _ in names]
    return Walk(len(set(names)), len(set(files)), sum(a != b for a, b in pairwise(files)))


# ---- The calls ------------------------------------------------------------------------------------------------------


def array_calls() -> dict[str, Call]:
    """Return calls on arrays."""
    from fastiter import fixedpoint, mdp, quant

    rng = np.random.default_rng(0)
    wx, r = rng.standard_normal((2, 5, 4, 1, 8)), rng.standard_normal((4, 1, 8, 8)) / 3
    x = rng.standard_normal(100).astype(np.float32)
    forest = mdp.examples.forest(3, 0.9)
    return {
        "fastiter.lstm": lambda: fastiter.lstm(wx, r),
        "fastiter.linear_scan": lambda: fastiter.linear_scan(r[0], r[0]),
        "quant.quantize": lambda: quant.quantize(x, "fixed<8,3>"),
        "MDP.solve": forest.solve,
        "fixed_point, one step": lambda: fixedpoint.fixed_point(lambda x: 0 * x + 1, np.ones((1, 3))),
    }


def matrix_calls() -> dict[str, Call]:
    """Return calls on sparse matrices, which SciPy makes."""
    import scipy.sparse

    from fastiter import bcd, relax

    lower = scipy.sparse.csr_array(2 * np.eye(50) - np.eye(50, k=-1))  # solved by one sweep forward
    b, x = np.ones(50), np.zeros(50)
    A = np.random.default_rng(0).standard_normal((20, 5))
    return {
        "relax.sor, one step": lambda: relax.sor(lower, b, omega=1.0),
        "relax.compat.gauss_seidel": lambda: relax.compat.gauss_seidel(lower, x, b),
        "bcd.Lasso.fit": lambda: bcd.Lasso(0.1).fit(A, A[:, 0]),
    }


def tensor_calls() -> dict[str, Call]:
    """Return calls on tensors."""
    import torch

    from fastiter.torch import delta_scan, fixedpoint, nn, quant, ssm

    layer, x, lengths = nn.LSTM(8, 8), torch.randn(5, 2, 8), torch.tensor([5, 3])
    numbers = torch.randn(100)
    u, delta = torch.randn(1, 4, 6, requires_grad=True), torch.rand(1, 4, 6)
    A, B, C = -torch.rand(4, 3), torch.randn(1, 3, 6), torch.randn(1, 3, 6)
    q, reset = torch.randn(1, 5, 2, 4), torch.zeros(5, 2, dtype=torch.bool)

    def forward(**options: Any) -> Any:
        with torch.no_grad():
            return layer(x, **options)

    return {
        "torch.nn.LSTM": forward,
        "torch.nn.LSTM with lengths": lambda: forward(lengths=lengths),
        "torch.nn.LSTM with resets": lambda: forward(reset=reset),
        "torch.delta_scan": lambda: delta_scan(q, q, q, q[..., 0]),
        "torch.quant.quantize": lambda: quant.quantize(numbers, "fixed<8,3>"),
        "torch fixed_point, one step": lambda: fixedpoint.fixed_point(lambda x: 0 * x + 1, torch.ones(1, 3)),
        "torch.ssm.selective_scan with its gradient": lambda: ssm.selective_scan(u, delta, A, B, C).sum().backward(),
    }


#: The calls by the package that they need beside NumPy
CALLS = {"numpy": array_calls, "scipy": matrix_calls, "torch": tensor_calls}


def main(name: str = "") -> None:
    """Print the table, or the functions of the calls with a name."""
    for calls in CALLS.values():
        for own, call in calls().items():
            if not name:
                functions, files, changes = walk(call)
                print(f"{own:45s} {functions:4d} functions {files:4d} files {changes:4d} changes of file")
            elif name in own:
                print(own, *(f"    {file:50s} {function}" for file, function in entered(call)), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
