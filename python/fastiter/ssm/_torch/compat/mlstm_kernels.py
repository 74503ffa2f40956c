"""mLSTM with the signatures of mlstm_kernels: heads before time, states (C, n, m) with m (B, H, 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...._torch.autograd import names_errors
from ..._mlstm_shapes import checked_numbers
from ..mlstm import mlstm
from .common import check_part

States = tuple[Tensor, Tensor, Tensor]


@names_errors
def mlstm_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    c_initial: Tensor | None = None,
    n_initial: Tensor | None = None,
    m_initial: Tensor | None = None,
    return_last_states: bool = False,
    eps: float = 1e-6,
    chunk_size: int = 64,
    autocast_kernel_dtype: torch.dtype = torch.float32,
    *,
    normalizer_gradient: bool = True,
    **rest: Any,
) -> Tensor | tuple[Tensor, States]:
    """mLSTM over whole sequences: q, k (B, H, T, K), v (B, H, T, V), i, f (B, H, T).

    This is :func:`fastiter.torch.ssm.mlstm` with heads before time.

    Parameters
    ----------
    q : Tensor (B, H, T, K), float32, float64, float16 or bfloat16
        Queries.
    k : Tensor (B, H, T, K)
        Keys.
    v : Tensor (B, H, T, V)
        Values.
    i : Tensor (B, H, T)
        The input gate before its exponential.
    f : Tensor (B, H, T)
        The forget gate before its sigmoid.
    c_initial : Tensor (B, H, K, V), optional
        The matrix before the first step; zero by default. All parts of the state are given, or none.
    n_initial : Tensor (B, H, K), optional
        The normalizer before the first step.
    m_initial : Tensor (B, H, 1), optional
        The running maximum before the first step.
    return_last_states : bool
        Also return the state after the last step.
    eps : float
        Added to the divisor.
    chunk_size : int
        An option of the package's kernels, which changes nothing here.
    autocast_kernel_dtype : torch.dtype
        An option of the package's kernels, which changes nothing here.
    normalizer_gradient : bool
        Whether gradients flow through the divisor, as in the package's "native_autograd"; its "native_custbw" and
        Triton kernels treat it as a constant.
    **rest : object
        Refused: the package's functions have no further options.

    Returns
    -------
    h : Tensor (B, H, T, V)
        The outputs, in the dtype of v. Differentiable in every tensor of floats, once.
    state : tuple of C (B, H, K, V), n (B, H, K) and m (B, H, 1)
        The state after the last step; only with ``return_last_states``.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    mlstm_recurrent_sequence : The same, with the dtype of the returned state.
    mlstm_recurrent_step : One step.
    fastiter.torch.ssm.mlstm : The function that it calls, with resets and packed sequences.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mlstm_kernels import mlstm_chunkwise
    >>> q = k = torch.ones(1, 1, 4, 1)
    >>> v = torch.arange(4.0).view(1, 1, 4, 1)
    >>> gate = torch.full((1, 1, 4), 30.0)  # keep everything, and weigh all steps alike: h is the mean of v so far
    >>> mlstm_chunkwise(q, k, v, gate, gate, eps=0.0).flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.5000])
    """
    _check("mlstm_chunkwise", rest, (q, k, v, i, f), eps)
    initial = _state("mlstm_chunkwise", q, v, {"c_initial": c_initial, "n_initial": n_initial, "m_initial": m_initial})
    return _run(q, k, v, i, f, initial, return_last_states, eps, normalizer_gradient)


@names_errors
def mlstm_recurrent_sequence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    c_initial: Tensor | None = None,
    n_initial: Tensor | None = None,
    m_initial: Tensor | None = None,
    return_last_states: bool = False,
    eps: float = 1e-6,
    dtype_state: torch.dtype = torch.float32,
    **rest: Any,
) -> Tensor | tuple[Tensor, States]:
    """mLSTM over whole sequences, like :func:`mlstm_chunkwise`; the last states have the dtype ``dtype_state``.

    Parameters
    ----------
    q : Tensor (B, H, T, K), float32, float64, float16 or bfloat16
        Queries.
    k : Tensor (B, H, T, K)
        Keys.
    v : Tensor (B, H, T, V)
        Values.
    i : Tensor (B, H, T)
        The input gate before its exponential.
    f : Tensor (B, H, T)
        The forget gate before its sigmoid.
    c_initial : Tensor (B, H, K, V), optional
        The matrix before the first step; zero by default. All parts of the state are given, or none.
    n_initial : Tensor (B, H, K), optional
        The normalizer before the first step.
    m_initial : Tensor (B, H, 1), optional
        The running maximum before the first step.
    return_last_states : bool
        Also return the state after the last step.
    eps : float
        Added to the divisor.
    dtype_state : torch.dtype
        The dtype of the returned state.
    **rest : object
        Refused: the package's functions have no further options.

    Returns
    -------
    h : Tensor (B, H, T, V)
        The outputs, in the dtype of v. Differentiable in every tensor of floats, once.
    state : tuple of C (B, H, K, V), n (B, H, K) and m (B, H, 1)
        The state after the last step; only with ``return_last_states``.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    mlstm_chunkwise : The same, without the dtype of the returned state.
    mlstm_recurrent_step : One step.
    fastiter.torch.ssm.mlstm : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mlstm_kernels import mlstm_recurrent_sequence
    >>> q = k = torch.ones(1, 1, 4, 1)
    >>> v = torch.arange(4.0).view(1, 1, 4, 1)
    >>> gate = torch.full((1, 1, 4), 30.0)  # keep everything, and weigh all steps alike: h is the mean of v so far
    >>> mlstm_recurrent_sequence(q, k, v, gate, gate, eps=0.0).flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.5000])
    """
    function = "mlstm_recurrent_sequence"
    _check(function, rest, (q, k, v, i, f), eps)
    initial = _state(function, q, v, {"c_initial": c_initial, "n_initial": n_initial, "m_initial": m_initial})
    result = _run(q, k, v, i, f, initial, return_last_states, eps, True)
    if isinstance(result, Tensor):
        return result
    h, (c, n, m) = result
    return h, (c.to(dtype_state), n.to(dtype_state), m.to(dtype_state))


@names_errors
def mlstm_recurrent_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    c: Tensor,
    n: Tensor,
    m: Tensor,
    eps: float = 1e-6,
    dtype_state: torch.dtype = torch.float32,
    **rest: Any,
) -> tuple[Tensor, States]:
    """One step of mLSTM, which does not modify its initial state: q, k (B, H, K), v (B, H, V), i, f, m (B, H, 1).

    Parameters
    ----------
    q : Tensor (B, H, K), float32, float64, float16 or bfloat16
        The query.
    k : Tensor (B, H, K)
        The key.
    v : Tensor (B, H, V)
        The value.
    i : Tensor (B, H, 1)
        The input gate before its exponential.
    f : Tensor (B, H, 1)
        The forget gate before its sigmoid.
    c : Tensor (B, H, K, V)
        The matrix before the step.
    n : Tensor (B, H, K)
        The normalizer before the step.
    m : Tensor (B, H, 1)
        The running maximum before the step.
    eps : float
        Added to the divisor.
    dtype_state : torch.dtype
        The dtype of the returned state.
    **rest : object
        Refused: the package's functions have no further options.

    Returns
    -------
    h : Tensor (B, H, V)
        The output of the step, in the dtype of v.
    state : tuple of C (B, H, K, V), n (B, H, K) and m (B, H, 1)
        The state after the step.

    Raises
    ------
    TypeError, ValueError
        For a wrong type or dtype; for a wrong shape or value.

    See Also
    --------
    mlstm_chunkwise, mlstm_recurrent_sequence : Whole sequences.
    fastiter.torch.ssm.mlstm : The function that it calls.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.compat.mlstm_kernels import mlstm_recurrent_step
    >>> one, gate = torch.ones(1, 1, 1), torch.full((1, 1, 1), 30.0)
    >>> state = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1)
    >>> for value in (1.0, 2.0, 3.0):
    ...     h, state = mlstm_recurrent_step(one, one, value * one, gate, gate, *state, eps=0.0)
    >>> h.item()
    2.0
    """
    _check("mlstm_recurrent_step", rest, (q, k, v, i, f), eps, "B, H")
    inputs = (q[:, None], k[:, None], v[:, None], i.transpose(1, 2), f.transpose(1, 2))
    initial = _state("mlstm_recurrent_step", q, v, {"c": c, "n": n, "m": m})
    h, (C, N, M) = mlstm(*inputs, state=initial, eps=eps)
    return h[:, 0], (C.to(dtype_state), N.to(dtype_state), M[..., None].to(dtype_state))


def register(name: str = "fastiter") -> None:
    """Register these functions with mlstm_kernels: a backend may then be selected as ``"chunkwise--fastiter"``.

    They are added to the registries of chunkwise, sequence and step kernels, in the latter two under ``name``.

    Parameters
    ----------
    name : str
        The key in the registries of sequence and step kernels.

    Raises
    ------
    ImportError
        If mlstm_kernels is not installed.

    See Also
    --------
    fastiter.torch.compat.install : Replaces the whole package.
    mlstm_chunkwise : The function that is registered for chunkwise kernels.

    Examples
    --------
    >>> import sys
    >>> from unittest import mock
    >>> from fastiter.torch.compat import mlstm_kernels
    >>> with mock.patch.dict(sys.modules, {"mlstm_kernels": None}):  # as if it were not installed
    ...     try:
    ...         mlstm_kernels.register()
    ...     except ImportError as error:
    ...         print(error.name)
    mlstm_kernels.torch
    """
    from mlstm_kernels.torch import chunkwise, recurrent

    chunkwise.registry[name] = mlstm_chunkwise
    recurrent.registry_sequence[name] = mlstm_recurrent_sequence
    recurrent.registry_step[name] = mlstm_recurrent_step


def _state(function: str, q: Tensor, v: Tensor, parts: dict[str, Tensor | None]) -> States | None:
    """Return the initial state in mlstm's form; either all of its parts must be given, or none."""
    if function != "mlstm_recurrent_step" and all(x is None for x in parts.values()):
        return None
    heads, keys, values = q.shape[:2], q.shape[-1], v.shape[-1]
    states = []
    for (name, x), shape in zip(parts.items(), ((*heads, keys, values), (*heads, keys), (*heads, 1)), strict=True):
        if x is None:
            expected = "a tensor if another part of the state is given"
            raise ValueError(f"{function}: {name} must be {expected}, got None")
        check_part(function, name, x, tuple(shape), q)
        states.append(x)
    c, n, m = states
    return c, n, m[..., 0]


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    initial: States | None,
    return_last_states: bool,
    eps: float,
    normalizer_gradient: bool,
) -> Tensor | tuple[Tensor, States]:
    inputs = [x.transpose(1, 2) for x in (q, k, v, i, f)]
    h, last = mlstm(*inputs, state=initial, eps=eps, normalizer_gradient=normalizer_gradient)
    h = h.transpose(1, 2)
    return (h, (last[0], last[1], last[2][..., None])) if return_last_states else h


def _check(function: str, rest: dict[str, Any], signals: tuple[Any, ...], eps: float, letters: str = "B, H, T") -> None:
    """Refuse unknown options, and signals q, k, v, i and f that are inconsistent; ``letters`` are their axes."""
    if rest:
        got = f"an unexpected keyword argument {next(iter(rest))!r}"
        raise TypeError(f"{function}: options must be those of mlstm_kernels, got {got}")
    q, k, v, i, f = signals
    axes = len(letters.split(", "))
    for name, x, width in (("q", q, "K"), ("v", v, "V")):
        if not isinstance(x, Tensor):
            raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(x).__qualname__}")
        if x.dim() != axes + 1:
            raise ValueError(f"{function}: {name} must have shape ({letters}, {width}), got {tuple(x.shape)}")
    shape = tuple(q.shape[:-1])
    gate = shape if axes == 3 else (*shape, 1)
    for name, x, expected in (
        ("k", k, tuple(q.shape)),
        ("v", v, (*shape, v.shape[-1])),
        ("i", i, gate),
        ("f", f, gate),
    ):
        check_part(function, name, x, expected, q)
    checked_numbers(function, None, eps, max(q.shape[-1], 1), q.dtype == torch.float64)
