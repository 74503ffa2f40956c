"""Tensors for the methods of fastiter.fixedpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..._check import type_name
from ..._torch import ops as ops  # lets the kernels read tensors
from .._functional import run
from .._problem import Stopping
from .._result import FixedPointSolution
from .._space import DTYPES, Numbers, Rows

_NAMES = {getattr(torch, name): name for name in DTYPES}


class TorchSpace:
    """Dense tensors of one dtype on one device; those on the CPU go to the compiled kernels."""

    noun = "a tensor"
    has_loop = False
    numbers: Any = staticmethod(torch.from_numpy)
    where: Any = staticmethod(torch.where)
    dtype: Any = None
    bits, eps, dtype_name = 0, 0.0, ""

    def check_leaf(self, function: str, name: str, x: Any) -> None:
        listed = f"a tensor of {', '.join(DTYPES[:-1])} or {DTYPES[-1]}"
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{function}: {name} must be {listed}, got {type_name(x)}")
        if x.dtype not in _NAMES:
            remedy = " (x.float() is; f may compute in 16 bits)" if x.dtype in (torch.bfloat16, torch.float16) else ""
            raise TypeError(f"{function}: {name} must be {listed}{remedy}, got {str(x.dtype).removeprefix('torch.')}")
        if x.layout is not torch.strided:
            raise TypeError(f"{function}: {name} must be dense, got layout {x.layout}")
        if self.dtype is None:
            self.dtype, self.dtype_name, self.device = x.dtype, _NAMES[x.dtype], x.device
            self.real = x.dtype.to_real()
            self.bits = torch.finfo(self.real).bits if x.device.type == "cpu" else 0
            self.eps = torch.finfo(self.real).eps

    def protected(self, x: Any) -> Any:
        return x  # tensors cannot be read-only: their versions are compared

    def version(self, x: Any) -> int:
        return 0 if x.is_inference() else x._version  # type: ignore[no-any-return]

    def is_like_first(self, x: Any) -> bool:
        return isinstance(x, torch.Tensor) and x.dtype == self.dtype and x.device == self.device

    def describe(self, x: Any) -> str:
        if not isinstance(x, torch.Tensor):
            return type_name(x)
        name = str(x.dtype).removeprefix("torch.")
        if self.dtype is not None and x.dtype == ops.autocast_dtype(x):
            return f"{name}, as autocast has it; .to(x.dtype) is as x0"
        return name if self.dtype is None or x.device == self.device else f"{name} on {x.device}"

    def buffer(self, x: Any) -> Any:
        x = torch.view_as_real(x.resolve_conj()).reshape(x.shape[0], -1) if x.is_complex() else x
        return x.detach().resolve_neg().contiguous()

    def unbuffered(self, x: Any) -> Any:
        return torch.view_as_complex(x.reshape(x.shape[0], -1, 2))

    def copy(self, x: Any) -> Any:
        return x.copy() if isinstance(x, np.ndarray) else x.clone(memory_format=torch.contiguous_format)

    def normal(self, n: int) -> Any:
        return torch.from_numpy(np.random.default_rng(0).standard_normal(n)).to(self.device, self.real)

    def empty(self, *shape: int) -> Any:
        return torch.empty(shape, dtype=self.real, device=self.device)

    def zeros(self, *shape: int) -> Any:
        return torch.zeros(shape, dtype=self.real, device=self.device)

    def join(self, parts: list[Any]) -> Any:
        return torch.cat(parts, dim=1)

    def take(self, x: Any, rows: Rows) -> Any:
        return x[torch.from_numpy(rows).to(x.device)]

    def put(self, x: Any, rows: Rows, values: Any) -> None:
        x[torch.from_numpy(rows).to(x.device)] = values

    def dot(self, a: Any, b: Any) -> Any:
        return (a * b).sum(dim=1, keepdim=True)

    def column(self, numbers: Numbers) -> Any:
        return torch.from_numpy(numbers).to(self.device, self.real)[:, None]

    def host(self, x: Any) -> Numbers:
        return np.asarray(x.detach().to("cpu", torch.float64).numpy())

    def norms(self, x: Any, f: Any, norm: str) -> tuple[Numbers, Numbers]:
        def of(r: Any) -> Any:
            wide = r.double()
            if r.shape[1] == 0:
                return wide.new_zeros(len(r))
            if norm == "span":
                return wide.amax(dim=1) - wide.amin(dim=1)
            root = torch.linalg.vector_norm(wide, ord=float("inf") if norm == "inf" else 2, dim=1)
            return root / r.shape[1] ** 0.5 if norm == "rms" else root

        both = self.host(torch.stack([of(f - x), of(f)]))
        return both[0], both[1]


@torch.no_grad()
def solve_tensors(
    function: str,
    f: Callable[..., Any],
    x0: Any,
    stopping: Stopping,
    method: str = "anderson",
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> FixedPointSolution[Any]:
    """Return the fixed points of a map on tensors, without gradients.

    stopping: checked (:meth:`Stopping.checked`). how: ``batched``, ``args``, ``compact`` and ``jvp`` of
    ``fixed_point``. Without a ``jvp``, ``"newton_krylov"`` takes differences of two values.
    """
    return run(function, f, x0, TorchSpace(), stopping, method, options or {}, **settings)
