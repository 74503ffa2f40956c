"""Linear recurrences over sequences whose steps are sharded over the ranks of a process group."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..._docs import documented_by, parts_of
from ..._sequences import as_part
from ..._torch.distributed.docs import PARTS
from ..._torch.distributed.in_place import Kernels
from ..._torch.distributed.sharded import Exchange, check_rows, sharded
from ..._torch.distributed.sharding import Checked, Maps, Request, Sharding, Tensors, pair, valid_steps
from ..._torch.ops import CPU_AND_CUDA, check_tensors
from ..._torch.sequences import Integers
from .._shapes import check_block_shapes, check_linear_shapes
from . import functional
from .in_place import kernels
from .ops import BLOCK, LINEAR, Scan, carried

#: Channels of linear_scan per chunk: the minimum, two cache lines of float32, and the number from which more than
#: two ranks are faster than one; with fewer channels the kernel reads only a small part of each row.
_UNIT, _SMALLEST = 32, 128


def _check(scan: Scan, request: Request) -> Checked:
    x: Any = request.tensors["x"]
    a: Any = request.tensors[scan.factors]
    state = as_part(request.state)
    check_tensors(scan.name, ("x", scan.factors), (x, a), scan.dtypes, CPU_AND_CUDA)
    (check_block_shapes if scan.blocks else check_linear_shapes)(scan.name, a.shape, x.shape)
    count = check_rows(scan.name, request.sequences, x.shape[0], "x")
    if state is not None:
        functional._check_h0(scan, state, x, (request.reverse, *request.sequences))
    default = x.new_zeros((), dtype=carried(x.dtype)).expand(count, *x.shape[2:])
    tensors = {"x": x, scan.factors: functional._with_all_axes(a, x, scan)}
    return Checked(tensors, None if state is None else [state], [default])


def _kernels(scan: Scan, options: Mapping[str, Any]) -> Kernels:
    return kernels(scan, options["reverse"])


def _product(scan: Scan, tensors: Tensors, lengths: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return the product of the factors of the valid steps, the first step's rightmost."""
    x, a = tensors["x"], tensors[scan.factors]
    assert x is not None and a is not None
    a = a.expand(*x.shape[:2], *a.shape[2:])
    if not scan.blocks:
        return valid_steps(a, lengths, 1.0).prod(1, dtype=carried(a.dtype))
    # Column j of the product is the final state of the scan without inputs from the unit vector j.
    batch, _, groups, width, _ = a.shape
    unit = torch.eye(width, dtype=a.dtype, device=a.device).expand(batch, groups, width, width)
    nothing = a.new_zeros(()).expand(*a.shape[:3], width)
    passed: dict[str, Any] = {"reverse": options["reverse"], "lengths": lengths}
    columns = [functional.block_scan(a, nothing, unit[..., j].contiguous(), **passed)[1] for j in range(width)]
    return torch.stack(columns, -1)


_LINEAR = Sharding(
    functional.linear_scan,
    {"x": "BTN", "a": "BTN"},
    "BTN",
    pair,
    _UNIT,
    _SMALLEST,
    maps=Maps(partial(_product, LINEAR), "numbers"),
    kernels=partial(_kernels, LINEAR),
    check=partial(_check, LINEAR),
)
_BLOCK = Sharding(
    functional.block_scan,
    {"x": "BTN.", "A": "BTN.."},
    "BTN.",
    pair,
    maps=Maps(partial(_product, BLOCK), "vector"),
    kernels=partial(_kernels, BLOCK),
    check=partial(_check, BLOCK),
)


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
    return sharded(_LINEAR, locals())


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
    return sharded(_BLOCK, locals())
