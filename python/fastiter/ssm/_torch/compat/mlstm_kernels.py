"""mLSTM with the signatures of mlstm_kernels: heads before time, states (C, n, m) with m (B, H, 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..mlstm import mlstm

States = tuple[Tensor, Tensor, Tensor]


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

    ``chunk_size`` and ``autocast_kernel_dtype`` say how the package's kernels compute, and change nothing here.
    ``normalizer_gradient`` is that of :func:`fastiter.torch.ssm.mlstm`: the package's "native_autograd" has it, its
    "native_custbw" and Triton kernels have not.
    """
    _check("mlstm_chunkwise", rest)
    initial = _state("mlstm_chunkwise", c_initial, n_initial, m_initial)
    return _run(q, k, v, i, f, initial, return_last_states, eps, normalizer_gradient)


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
    """mLSTM over whole sequences, as :func:`mlstm_chunkwise`; the last states have the dtype ``dtype_state``."""
    _check("mlstm_recurrent_sequence", rest)
    initial = _state("mlstm_recurrent_sequence", c_initial, n_initial, m_initial)
    result = _run(q, k, v, i, f, initial, return_last_states, eps, True)
    if isinstance(result, Tensor):
        return result
    h, (c, n, m) = result
    return h, (c.to(dtype_state), n.to(dtype_state), m.to(dtype_state))


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
    """One step: q, k (B, H, K), v (B, H, V), i, f, m (B, H, 1); returns h and the new states, the old are unchanged."""
    _check("mlstm_recurrent_step", rest)
    given = (q[:, None], k[:, None], v[:, None], i.transpose(1, 2), f.transpose(1, 2))
    h, (C, N, M) = mlstm(*given, initial_state=(c, n, m[..., 0]), eps=eps)
    return h[:, 0], (C.to(dtype_state), N.to(dtype_state), M[..., None].to(dtype_state))


def register(name: str = "fastiter") -> None:
    """Make these functions known to mlstm_kernels: its back ends may then be called ``"chunkwise--fastiter"``.

    The registries are those of chunkwise, sequence and step kernels; the ones of sequences and steps call it ``name``.

    Raises
    ------
    ImportError
        Where mlstm_kernels is not installed.
    """
    from mlstm_kernels.torch import chunkwise, recurrent

    chunkwise.registry[name] = mlstm_chunkwise
    recurrent.registry_sequence[name] = mlstm_recurrent_sequence
    recurrent.registry_step[name] = mlstm_recurrent_step


def _state(function: str, c: Tensor | None, n: Tensor | None, m: Tensor | None) -> States | None:
    """Return the initial state as mlstm takes it; all of its parts must be given, or none."""
    if c is None and n is None and m is None:
        return None
    if c is None or n is None or m is None:
        parts = {"c_initial": c, "n_initial": n, "m_initial": m}
        missing = next(name for name, x in parts.items() if x is None)
        raise ValueError(f"{function}: {missing} must be a tensor where another part of the state is given, got None")
    return c, n, m.reshape(m.shape[:2])


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
    given = [x.transpose(1, 2) for x in (q, k, v, i, f)]
    h, last = mlstm(*given, initial_state=initial, eps=eps, normalizer_gradient=normalizer_gradient)
    h = h.transpose(1, 2)
    return (h, (last[0], last[1], last[2][..., None])) if return_last_states else h


def _check(function: str, rest: dict[str, Any]) -> None:
    if rest:
        got = f"an unexpected keyword argument {next(iter(rest))!r}"
        raise TypeError(f"{function}: options must be those of mlstm_kernels, got {got}")
