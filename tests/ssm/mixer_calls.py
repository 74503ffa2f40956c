"""Arguments of the functions of whole mixers, as tensors."""

from __future__ import annotations

from typing import Any

import torch

B, T, D, N, R, M = 2, 21, 6, 3, 2, 5  # rows, steps, channels, states, rank of the step size, outputs
H, P = 4, 3  # heads, and channels per head


def rates(dtype: torch.dtype, is_complex: bool) -> Any:
    """A (D, N)"""
    A = -torch.rand(D, N, dtype=dtype) - 0.1
    return torch.complex(A, torch.randn(D, N, dtype=dtype)) if is_complex else A


def scan_inputs(
    dtype: torch.dtype, *, groups: int | None = None, fixed: str = "", is_complex: bool = False
) -> dict[str, Any]:
    """Arguments of a selective scan; those of B and C that are in ``fixed`` are the same at all steps."""
    torch.manual_seed(0)
    made = {name: torch.randn(B, D, T, dtype=dtype) for name in ("u", "delta", "z")}
    numbers = 2 * T if is_complex else T
    axes = (B, N, numbers) if groups is None else (B, groups, N, numbers)
    made["A"] = rates(dtype, is_complex)
    for name in "BC":
        one = {"size": (D, N), "dtype": made["A"].dtype} if name in fixed else {"size": axes, "dtype": dtype}
        made[name] = torch.randn(**one)
    return made | {name: torch.randn(D, dtype=dtype) for name in ("D", "delta_bias")}


def inner_inputs(
    dtype: torch.dtype, *, fixed: str = "", time: int = T, batch: int = B, is_complex: bool = False
) -> dict[str, Any]:
    """Arguments of Mamba's mixer."""
    torch.manual_seed(0)
    states = 2 * N if is_complex else N
    rows = R + states * (2 - len(fixed))

    def normal(*shape: int) -> Any:
        return torch.randn(shape, dtype=dtype) / (shape[-1] ** 0.5 if len(shape) == 2 else 1)

    made = {"xz": normal(batch, 2 * D, time), "conv1d_weight": normal(D, 1, 4), "conv1d_bias": normal(D)}
    made |= {"x_proj_weight": normal(rows, D), "delta_proj_weight": normal(D, R)}
    made |= {"out_proj_weight": normal(M, D), "out_proj_bias": normal(M), "D": normal(D), "delta_bias": normal(D)}
    made["A"] = rates(dtype, is_complex)
    made |= {name: normal(D, N).to(made["A"].dtype) for name in fixed}
    return made | {f"{name}_proj_bias": normal(states) for name in "BC" if name not in fixed}


def chunk_inputs(dtype: torch.dtype, *, time: int = T, groups: int = 2) -> dict[str, Any]:
    """Arguments of Mamba-2's scan."""
    torch.manual_seed(0)
    made = {"x": torch.randn(B, time, H, P, dtype=dtype), "dt": torch.randn(B, time, H, dtype=dtype)}
    made |= {name: torch.randn(B, time, groups, N, dtype=dtype) for name in "BC"}
    made |= {"A": -torch.rand(H, dtype=dtype) - 0.1, "D": torch.randn(H, dtype=dtype)}
    return made | {"z": torch.randn(B, time, H, P, dtype=dtype), "dt_bias": torch.randn(H, dtype=dtype)}


def split_inputs(
    dtype: torch.dtype, *, groups: int = 2, mlp: int = 0, time: int = T, batch: int = B
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors of Mamba-2's mixer with all its parts except initial states, and its other arguments."""
    torch.manual_seed(0)
    inner, mixed = H * P, H * P + 2 * groups * N
    made = {"zxbcdt": torch.randn(batch, time, 2 * mlp + inner + mixed + H, dtype=dtype)}
    made |= {"conv1d_weight": torch.randn(mixed, 4, dtype=dtype) / 2, "conv1d_bias": torch.randn(mixed, dtype=dtype)}
    made |= {"dt_bias": torch.randn(H, dtype=dtype), "A": -torch.rand(H, dtype=dtype) - 0.1}
    made |= {"D": torch.randn(H, dtype=dtype), "rmsnorm_weight": torch.randn(inner, dtype=dtype)}
    made |= {"outproj_weight": torch.randn(M, mlp + inner, dtype=dtype) / inner**0.5}
    made["outproj_bias"] = torch.randn(M, dtype=dtype)
    return made, {"headdim": P, "ngroups": groups}
