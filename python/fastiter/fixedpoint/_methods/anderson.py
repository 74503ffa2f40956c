"""Anderson's method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ... import _core
from ..._check import check_choice, count, positive
from .base import Accelerated
from .protocol import Active

#: Maximum number of differences in the kernel's least squares
MAX_MEMORY = 32
#: Dtypes of a history with half as many bits as x: the bits of x, and the NumPy dtype that stores them
NARROW: dict[str, tuple[int, Any]] = {"float32": (64, np.float32), "bfloat16": (32, np.uint16)}


@dataclass
class Anderson(Accelerated):
    """x <- g - sum c_i dg_i with g = x + damping (f(x) - x), where c minimises the residual of the combination."""

    name: ClassVar[str] = "anderson"
    growth: ClassVar[float] = 100.0
    rescues: ClassVar[bool] = True
    m: Any = 10
    damping: Any = 1.0
    ridge: Any = None
    kind: Any = 2
    restart: Any = None
    history_dtype: Any = None

    def check(self, function: str) -> None:
        self.m = count(function, "m", self.m, 1, MAX_MEMORY)
        self.damping = positive(function, "damping", self.damping, zero=False)
        self.kind = count(function, "kind", self.kind, 1, 2)
        if self.ridge is not None:
            self.ridge = positive(function, "ridge", self.ridge)
        if self.history_dtype is not None:
            check_choice(function, "history_dtype", self.history_dtype, tuple(NARROW))
        if self.restart is not None:
            self.restart = count(function, "restart", self.restart, 2)

    def begin(self) -> None:
        space, samples, n = self.space, self.samples, self.n
        # More differences than unknowns are linearly dependent, so that the oldest would take the newest's place.
        self.memory = m = max(1, min(self.m, n))
        self.narrow = self.history_dtype is not None
        if self.narrow and (not space.bits or NARROW[self.history_dtype][0] != space.bits):
            listed = ", ".join(f"{name!r} for {bits} bits" for name, (bits, _) in NARROW.items())
            where = space.dtype_name if space.bits else f"{space.dtype_name} without kernels"
            raise ValueError(
                f"{self.function}: history_dtype must be of half as many bits, {listed}, on a CPU, got "
                f"{self.history_dtype!r} for {where}"
            )
        # The kernels read no difference before they have written it; array operations multiply all by coefficients.
        allocate = space.empty if space.bits else space.zeros
        if self.narrow:
            differences = np.zeros((2, samples, m, n), NARROW[self.history_dtype][1])
        else:
            differences = allocate(2, samples, m, n)
        pushed = np.zeros(samples, np.int64)
        pushed -= 1
        self.history = (*allocate(2, samples, n), *differences, np.zeros((samples, m, m)), pushed)
        # Rounded differences are linearly dependent only up to their rounding.
        rounding = {"float32": 2.0**-23, "bfloat16": 2.0**-7}.get(self.history_dtype, space.eps)
        self.used_ridge = self.ridge if self.ridge is not None else max(space.eps, rounding**2)
        if self.restart is None and space.bits:
            self.loop = m, self.history, self.damping, self.used_ridge, (self.kind == 1, self.narrow)

    def resumed(self, other: Any) -> Anderson:
        for own, others in zip(self.history, other.history, strict=True):
            own[...] = others
        pushed = self.history[5]
        pushed[pushed >= 0] = -1 - pushed[pushed >= 0]
        return self

    def extrapolated(self, slots: Any) -> Any:
        return self.history[5][slots] > 0

    def fallback(self, slots: Any) -> Any:
        return self.space.take(self.history[1], slots)

    def step(self, at: Active) -> Any:
        restart = at.restart
        if self.restart is not None and at.steps and at.steps % self.restart == 0:
            restart = np.ones(len(at.slots), np.uint8)
        if not self.space.bits:
            return self._plain(at, restart)
        rows, out = len(at.slots), self.space.empty(len(at.slots), self.n)
        vectors = (at.slots, at.x, at.f, out)
        sizes = (rows, self.n, self.memory)
        bits, options = self.space.bits, (self.kind == 1, self.narrow)
        _core.fixedpoint.anderson(bits, sizes, vectors, self.history, restart, self.damping, self.used_ridge, options)
        return out

    def _plain(self, at: Active, restart: Any) -> Any:
        """Compute the step by array operations, where the kernels do not run."""
        space, m, slots = self.space, self.memory, at.slots
        last_r, last_g, dr, dg, _, pushed = self.history
        before = pushed[slots] if restart is None else np.where(restart, -1, pushed[slots])
        r = at.f - at.x
        g = at.x + self.damping * r
        has_last = np.flatnonzero(before >= 0)
        if len(has_last):
            rows, place = slots[has_last], before[has_last] % m
            dr[rows, place] = space.take(r, has_last) - last_r[rows]
            dg[rows, place] = space.take(g, has_last) - last_g[rows]
        space.put(last_r, slots, r)
        space.put(last_g, slots, g)
        pushed[slots] = after = np.where(before < 0, -1 - before, before + 1)
        used = np.minimum(after, m)
        columns = int(used.max(initial=0))
        if columns == 0:
            return g
        some_r, some_g = dr[slots][:, :columns], dg[slots][:, :columns]
        left = some_r if self.kind == 2 else some_g - self.damping * some_r
        matrix, right = space.host(left @ some_r.swapaxes(1, 2)), space.host(left @ r[:, :, None])[:, :, 0]
        c = coefficients(matrix, right, used, self.used_ridge)
        return g - (space.column(c.reshape(-1)).reshape(len(slots), 1, columns) @ some_g)[:, 0]


def coefficients(matrix: Any, right: Any, filled: Any, ridge: float) -> Any:
    """Return c (rows, m) of (matrix + ridge) c = right, scaled to a unit diagonal; entries past ``filled`` are 0."""
    rows, m = right.shape
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    used = (np.arange(m) < filled[:, None]) & (diagonal != 0) & np.isfinite(diagonal)
    scale = np.where(used, 1 / np.sqrt(np.where(used, np.abs(diagonal), 1)), 0)
    scaled = np.where(used[:, :, None] & used[:, None, :], matrix, 0) * scale[:, :, None] * scale[:, None, :]
    scaled += np.where(used, ridge * np.sign(np.where(used, diagonal, 1)), 1)[:, :, None] * np.eye(m)
    b = np.where(used, right, 0) * scale
    fine = np.isfinite(scaled).all(axis=(1, 2)) & np.isfinite(b).all(axis=1)
    scaled[~fine], b[~fine] = np.eye(m), 0
    c = np.stack([np.linalg.lstsq(scaled[i], b[i], rcond=2.0**-50)[0] for i in range(rows)]) if rows else b
    return c * scale
