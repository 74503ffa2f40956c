"""Linear recurrences over sequences whose steps are sharded over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._sequences import as_part
from ..._torch.distributed.in_place import Optional
from ..._torch.distributed.sharded import Split
from ..._torch.distributed.sharded_call import PARTS, Exchange, Maps, Options, Problem, check_rows, run_sharded
from ..._torch.distributed.sharded_function import valid_steps
from ..._torch.ops import CPU_AND_CUDA, check_tensors
from ..._torch.sequences import Integers, Sequences
from .._shapes import check_block_shapes, check_linear_shapes
from . import functional
from .in_place import kernels
from .ops import BLOCK, LINEAR, Scan, carried

#: Channels of linear_scan per chunk: the minimum, two cache lines of float32, and the number from which several ranks
#: are faster than one; with fewer channels the kernel reads only a small part of each row.
_UNIT, _LEAST = 32, 128


@documented_by(parts_of(functional.linear_scan) | PARTS)
def linear_scan(
    a: Tensor,
    x: Tensor,
    state: Tensor | None = None,
    *,
    group: Any = None,
    exchange: Exchange = "auto",
    chunks: int | None = None,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """h[t] = a[t] * h[t-1] + x[t] over the steps of all ranks: :func:`fastiter.torch.linear_scan` on sharded steps.

    Every rank calls it with its own steps, and calls backward once for each result. Differentiable once in a, x and
    state. The results of the pipeline equal those of one process bit for bit.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    h : Tensor (B, T, D)
        The states of this rank's steps.
    %(last)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    block_scan : The recurrence with matrices as factors.
    fastiter.torch.linear_scan : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(a, x):  # on each rank, after torch.distributed.init_process_group
    ...     h, last = fastiter.torch.distributed.linear_scan(a, x)
    ...     h.square().sum().backward()
    """
    return _run(LINEAR, a, x, state, Options(group, exchange, chunks, reverse, reset, lengths, cu_seqlens))


@documented_by(parts_of(functional.block_scan) | PARTS)
def block_scan(
    A: Tensor,
    x: Tensor,
    state: Tensor | None = None,
    *,
    group: Any = None,
    exchange: Exchange = "auto",
    chunks: int | None = None,
    reverse: bool = False,
    reset: Tensor | None = None,
    lengths: Integers | None = None,
    cu_seqlens: Integers | None = None,
) -> tuple[Tensor, Tensor]:
    """h[t] = A[t] h[t-1] + x[t] over the steps of all ranks: :func:`fastiter.torch.block_scan` on sharded steps.

    Differentiable like :func:`linear_scan`.

    Parameters
    ----------
    %(parameters)s

    Returns
    -------
    h : Tensor (B, T, N, K)
        The states of this rank's steps.
    %(last)s

    Raises
    ------
    %(errors)s

    See Also
    --------
    linear_scan : The recurrence with a scalar factor for each element.
    fastiter.torch.block_scan : The same in one process.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> def shard(A, x):  # on each rank, after torch.distributed.init_process_group
    ...     return fastiter.torch.distributed.block_scan(A, x, exchange="scan")
    """
    return _run(BLOCK, A, x, state, Options(group, exchange, chunks, reverse, reset, lengths, cu_seqlens))


def _run(scan: Scan, a: Tensor, x: Tensor, state: Tensor | None, options: Options) -> tuple[Tensor, Tensor]:
    def prepare(options: Options, given: Sequences) -> Problem:
        check_tensors(scan.name, ("x", scan.factors), (x, a), scan.dtypes, CPU_AND_CUDA)
        (check_block_shapes if scan.blocks else check_linear_shapes)(scan.name, a.shape, x.shape)
        rows = check_rows(scan.name, given, x.shape[0], "x")
        first = as_part(state)
        if first is not None:
            functional._check_h0(scan, first, x, (options.reverse, *given))
        return _problem(scan, functional._with_all_axes(a, x, scan), x, first, rows, options.reverse)

    (h,), (last,) = run_sharded(scan.name, options, prepare)
    return h, last


def _problem(scan: Scan, a: Tensor, x: Tensor, state: Tensor | None, count: int, reverse: bool) -> Problem:
    local = functional.block_scan if scan.blocks else functional.linear_scan

    def run(tensors: Optional, first: Sequence[Tensor] | None, cut: Sequences) -> Any:
        x, a = tensors
        assert x is not None and a is not None
        how = {"reset": cut.reset, "lengths": cut.lengths, "cu_seqlens": cut.cu_seqlens}
        h, last = local(a, x, None if first is None else first[0], reverse=reverse, **how)
        return [h], [last]

    def transition(tensors: Optional, reset: Tensor | None, lengths: Tensor | None) -> Tensor:
        x, a = tensors
        assert x is not None and a is not None
        return _product(scan, a.expand(*x.shape[:2], *a.shape[2:]), lengths, reverse)

    rows = Split(x.shape[0], 1, (0, None if a.shape[0] != x.shape[0] else 0), 0, 0)
    unit, least = (1, 1) if scan.blocks else (_UNIT, _LEAST)
    across = Split(x.shape[2], unit, (2, 2), 2, 1, least)
    return Problem(
        {"x": x, scan.factors: a},
        {"x": 1, scan.factors: 1},
        x.shape[0],
        x.shape[1],
        None if state is None else [state],
        [x.new_zeros((), dtype=carried(x.dtype)).expand(count, *x.shape[2:])],
        [rows, across],
        run,
        Maps(transition, "vector" if scan.blocks else "numbers"),
        kernels(scan, reverse) if x.is_cpu else None,
    )


def _product(scan: Scan, a: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """Return the product of the factors of the valid steps, the first step's rightmost."""
    if not scan.blocks:
        return valid_steps(a, lengths, 1.0).prod(1, dtype=carried(a.dtype))
    # Column j of the product is the final state of the scan without inputs from the unit vector j.
    batch, _, groups, width, _ = a.shape
    unit = torch.eye(width, dtype=a.dtype, device=a.device).expand(batch, groups, width, width)
    nothing = a.new_zeros(()).expand(*a.shape[:3], width)
    columns = [
        functional.block_scan(a, nothing, unit[..., j].contiguous(), reverse=reverse, lengths=lengths)[1]
        for j in range(width)
    ]
    return torch.stack(columns, -1)
