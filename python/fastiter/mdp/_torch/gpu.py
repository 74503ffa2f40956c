"""Decision processes on a GPU: value iteration by kernels/mdp/triton_mdp.py, and the values of chains."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ... import _core
from ..._call.iterate import Columns, Limits, Step, iterate
from ..._solution import judged
from ..._torch import launch
from ..._torch.ops import contiguous
from .._process import SUM_TOLERANCE, checked
from .._result import MDPSolution, alone
from .._solvers.krylov import Chain, solved
from .ops import ChainValues, Policy, possible_rows

Array = npt.NDArray[Any]

#: Products per program, and the maximum number of entries of a row that are read at a time
_TILE, _WIDEST = 256, 128
#: Sweeps without a smaller residual after which only rounding can remain
_PATIENCE = 1000


class CardModel:
    """Rows on a device, of one model or of several models that share a sparsity pattern.

    row (S + 1) or None, for chains; entry (rows + 1), target (entries); weight (entries) or (B, entries), reward (rows)
    or (B, rows).
    """

    def __init__(self, row: Tensor | None, entry: Tensor, target: Tensor, weight: Tensor, reward: Tensor) -> None:
        self.row, self.entry, self.target = row, entry.contiguous(), target.to(torch.int32).contiguous()
        self.weight, self.reward = contiguous(weight), contiguous(reward)
        rows = max(len(entry) - 1, 1)
        self._entries = min(1 << max(0, -(-len(target) // rows) - 1).bit_length(), _WIDEST)
        self._states = max(1, _TILE // self._entries)

    def sweep(
        self,
        v: Tensor,
        w: Tensor,
        action: Tensor | None,
        discount: Tensor,
        reward: Tensor | None = None,
        model: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Set w (B, S) to T v; return the least and the largest changes (running models, programs).

        ``discount`` is one float64; ``model`` has the indices of the models to sweep, by default all.
        """
        models, S = v.shape
        running = models if model is None else len(model)
        programs = -(-S // self._states)
        low, high = torch.empty((2, running, programs), dtype=torch.float64, device=v.device)
        reward = self.reward if reward is None else reward
        kernels = launch.triton_kernels("mdp", "mdp/triton_mdp")
        with launch.on(v):
            kernels.bellman_backup_kernel[(programs * running,)](
                *(self.row, self.entry, self.target, self.weight, reward, v, w, action, low, high, model, discount),
                S,
                programs,
                self.weight.shape[1] if self.weight.dim() == 2 else 0,
                reward.shape[1] if reward.dim() == 2 else 0,
                STATES=self._states,
                ENTRIES=self._entries,
                num_warps=4,
                enable_fp_fusion=True,
            )
        return low, high

    def backup(
        self, v: Tensor, w: Tensor, action: Tensor | None, count: int, discount: float, reward: Tensor | None
    ) -> None:
        """Sweep ``count`` times, alternating between v and w (S,), like the compiled CPU models."""
        factor = torch.full((1,), discount, dtype=torch.float64, device=v.device)
        for _ in range(count):
            self.sweep(v[None], w[None], action, factor, reward)
            v, w = w, v

    def transposed(self) -> CardModel:
        """Return the transpose of a chain, with rewards of 0."""
        states = len(self.entry) - 1
        order = torch.argsort(self.target, stable=True)
        owner = torch.repeat_interleave(self.entry.diff())
        counts = torch.bincount(self.target, minlength=states)
        entry = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return CardModel(None, entry, owner[order], self.weight[order], torch.zeros_like(self.reward))


class LastSweeps:
    """The last sweep of each of B models: w and actions (B, S), and the :class:`Bounds` as an array (4, B)."""

    def __init__(self, v: Tensor) -> None:
        self.w, self.current = torch.empty_like(v), torch.empty_like(v)
        self.action = torch.full(v.shape, -1, dtype=torch.int32, device=v.device)
        self.bounds = np.zeros((4, len(v)))

    def save(self, models: Array) -> None:
        """Copy the current values of some models, a mask (B,)."""
        if models.any():
            chosen = torch.from_numpy(np.flatnonzero(models))
            self.w[chosen] = self.current[chosen]

    def value(self, active: Array) -> Tensor:
        """Return a copy of the values, current ones of the active models."""
        mask = torch.from_numpy(active).to(self.w.device)[:, None]
        return torch.where(mask, self.current, self.w)


class CardProcess:
    """Checked rows on a device; ``gamma`` is below 1."""

    def __init__(self, function: str, rows: Policy) -> None:
        self._rows, values, rewards = rows, rows.values, rows.rewards
        self.states = rows.row.shape[0] - 1
        self.models = max([len(x) for x in (values, rewards) if x.dim() == 2], default=1)
        self._counts = rows.crow.diff()
        self.model = CardModel(rows.row, rows.crow, rows.col, values, rewards)
        self.discount = rows.gamma.double().reshape(1)
        self._owner = torch.repeat_interleave(self._counts, output_size=len(rows.col))
        zeros = values.new_zeros((self.models, self.states))
        self._best = torch.empty_like(zeros)
        if self.models:
            if not rewards.shape[-1]:
                self._refuse(function, 0)
            self.model.sweep(zeros, self._best, None, self.discount)
        self._check(function)

    def _check(self, function: str) -> None:
        """Compute the row sums and the largest reward of each model; leave error messages to the CPU's checks."""
        values, rewards = self._rows.values, self._rows.rewards
        possible = rewards != -np.inf
        rows, wide = len(self._rows.crow) - 1, values.double()
        sums = wide.new_zeros((*wide.shape[:-1], rows)).index_add_(-1, self._owner, wide)
        faults = wide.new_zeros(sums.shape).index_add_(-1, self._owner, (~((wide >= 0) & (wide < np.inf))).double())
        tolerance = 0.9 * SUM_TOLERANCE[str(values.dtype).removeprefix("torch.")]
        is_right = ~possible | ((faults == 0) & ((sums - 1).abs() <= tolerance) & (rewards.abs() < np.inf))
        is_right = is_right.reshape(-1, rows).all(1).expand(self.models) & (self._best > -np.inf).all(1)
        for m in torch.nonzero(~is_right).flatten().tolist():
            self._refuse(function, m)
        either = torch.where(possible, sums, sums.new_tensor(1.0))
        lowest, highest = (x.expand(self.models) for x in either.reshape(-1, rows).aminmax(dim=1))
        largest = torch.where(possible, rewards, 0).abs().reshape(-1, rows).amax(1).double().expand(self.models)
        starts = self._best.amin(1).double()
        numbers = torch.stack([lowest, highest, largest, starts]).cpu().numpy()
        gamma = float(self.discount)
        self.modulus: Array = gamma * numbers[:2]  # (2, B)
        self._start = numbers[3]
        if (self.modulus[1] >= 1).any():
            got = self.modulus[1].max()
            raise ValueError(f"{function}: gamma times the largest sum of a row must be below 1, got {got:.17g}")
        longest = int(self._counts.max()) if rows else 0
        error, is_double = (longest + 1) * 2.0**-53, values.dtype == torch.float64  # any order of a sum
        self._accuracies = [
            _core.mdp.Accuracy(is_double, gamma, low * (1 - error), high * (1 + error), reward, longest)
            for low, high, reward in numbers[:3].T.tolist()
        ]

    def _refuse(self, function: str, m: int) -> None:
        """Check model m on the CPU, which raises unless the fault was only rounding in another order of summation."""
        rows = self._rows
        weight, reward = (x[m if len(x) > 1 else 0] if x.dim() == 2 else x for x in (rows.values, rows.rewards))
        arrays = [x.detach().cpu().numpy() for x in (rows.row, rows.crow, rows.col, weight, reward)]
        checked(function, possible_rows(*arrays), float(rows.gamma), None, False)

    def start(self) -> Tensor:
        """Return lower bounds on the values: each state earns the minimum over states of the best reward forever."""
        bound = self._start / (1 - np.where(self._start < 0, self.modulus[1], self.modulus[0]))
        like = self._best
        largest = torch.finfo(like.dtype).max
        bound = np.where(np.abs(bound) <= largest, bound, 0)
        return torch.from_numpy(bound).to(like.device, like.dtype)[:, None].expand_as(like).contiguous()

    def bounds(self, changes: Array, sizes: Array, models: Array) -> Array:
        """Return the :class:`Bounds` (4, models) of some models, as arrays, from their changes and largest values."""
        numbers = zip(models.tolist(), *changes.tolist(), sizes.tolist(), strict=True)
        return np.array([self._accuracies[m].bounds(low, high, size) for m, low, high, size in numbers]).T

    def reachable(self) -> Array:
        """Return the widths that bounds can reach, for the largest values that rewards allow."""
        return np.array([2 * each.reachable() for each in self._accuracies])

    def iterate(self, v: Tensor, tolerance: Array, limits: Limits) -> tuple[LastSweeps, Columns]:
        """Sweep from v (B, S) until the bounds of each model are within its tolerance; v is overwritten.

        A model that has ended is not swept any more, so that it has the same bits as when solved alone.
        """
        last, record = LastSweeps(v), Columns(self.models, overflows=True)
        if self.models:
            iterate(self._sweeps(v, tolerance, last, record), limits, record)
            last.save(record.closed)
        return last, record

    def _sweeps(self, v: Tensor, tolerance: Array, last: LastSweeps, record: Columns) -> Iterator[Step]:
        shape = (self.models,)
        smallest, without_progress, steps = np.full(shape, np.inf), np.zeros(shape, np.int64), 0
        while True:
            steps += 1
            running = np.flatnonzero(record.active)
            chosen = None if len(running) == self.models else torch.from_numpy(running).to(v.device)
            w = last.current
            changes = self.model.sweep(v, w, last.action, self.discount, None, chosen)
            size = (w if chosen is None else w[chosen]).abs().amax(1).double()
            numbers = torch.stack([changes[0].amin(1), changes[1].amax(1), size]).cpu().numpy()
            last.bounds[:, running] = self.bounds(numbers[:2], numbers[2], running)
            low, high, rounding, floor = last.bounds
            residual = np.where(record.active, high - low + 2 * rounding, np.nan)
            without_progress = np.where(residual < smallest, 0, without_progress + 1)
            smallest = np.fmin(residual, smallest)
            is_stuck, is_finite = without_progress > _PATIENCE, np.ones(shape, np.bool_)
            widths = (high - low)[running].tolist(), floor[running].tolist(), without_progress[running].tolist()
            is_stuck[running] |= np.array(list(map(_core.mdp.is_rounding, *widths)))
            is_finite[running] = np.isfinite(numbers[2])
            active = record.active.copy()
            yield Step(
                *(steps, residual, tolerance, partial(last.value, active)),
                can_converge=is_finite,
                stagnated=is_stuck,
                diverged=~is_finite,
            )
            last.save(record.closed)
            v, last.current = w, v


def solve(
    function: str, call: Policy, limits: Limits, v: Tensor | None = None, *, rounded: bool = False
) -> MDPSolution[Tensor]:
    """Return the solutions by value iteration from v (B, S): tensors, and the best rows as the policy.

    ``rounded``: a tolerance below the rounding error is replaced by the rounding error.
    """
    process = CardProcess(function, call)
    reachable = process.reachable() if rounded else 0.0
    tolerance = np.maximum(limits.atol, reachable) + np.zeros(process.models)
    last, record = process.iterate(process.start() if v is None else v, tolerance, limits)
    wide, numbers = last.w.double(), record.results()
    low, high, rounding = (torch.from_numpy(x).to(wide.device)[:, None] for x in last.bounds[:3])
    middle = torch.where((high - low).isfinite(), wide + (low + high) / 2, wide)
    lower, upper = wide + (low - rounding), wide + (high + rounding)
    numbers["residual"] = (upper - lower).amax(1).cpu().numpy() if process.models else np.zeros(0)
    numbers["tolerance"] = limits.atol
    return MDPSolution(
        value=middle.to(last.w.dtype),
        policy=call.row[:-1] + last.action,
        lower=torch.where(lower.isnan(), -torch.inf, lower),
        upper=torch.where(upper.isnan(), torch.inf, upper),
        history=np.stack(record.history, 1) if record.history else np.zeros((process.models, 0)),
        method="vi",
        **numbers,
    )


def policy(call: Policy) -> Tensor:
    """Implement the op on a GPU, by value iteration."""
    limits = Limits(atol=call.atol, max_steps=call.max_steps)
    solution = solve("values", call, limits, rounded=True)
    is_batch = call.values.dim() == 2 or call.rewards.dim() == 2
    best: Tensor = judged("values", solution if is_batch else alone(solution), False).policy
    return best


def chain_values(call: ChainValues) -> Tensor:
    """Implement the op on a GPU, by BiCGSTAB."""
    b: Any = contiguous(call.b)
    model = CardModel(None, call.crow, call.col, call.weights, torch.zeros_like(b))
    ones: Any = torch.ones_like(b)
    sums = 1 - Chain(model, 1.0, ones).multiply(ones)
    chain = Chain(model.transposed() if call.transpose else model, 1.0, b, b, float(sums.max()) if len(b) else 0.0)
    x: Any = solved("values", chain, b)
    return x
