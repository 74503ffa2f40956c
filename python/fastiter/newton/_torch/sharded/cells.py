"""One step of each cell with diagonal weights, and its Jacobian, for all steps at once.

Inputs are x (B, T, G, D), states (B, T, D, K) with the K parts of the state, Jacobians (B, T, D, K, K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

#: Maps a tangent of each part of the state to the tangent of the next state
_Tangent = Callable[[Sequence[float]], Sequence[Tensor]]


def linearised(name: str, x: Tensor, a: Tensor, p: Tensor | None, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states after each step from those before it, and the Jacobians."""
    parts = before.unbind(3)
    count = len(parts)
    if name == "paralstm":
        assert p is not None  # for the type checker: checked already
        after, tangent = _lstm(x, a, p, parts)
    else:
        after, tangent = (_gru if name == "paragru" else _slstm)(x, a, parts)
    columns = [torch.stack(list(tangent([float(k == j) for k in range(count)])), -1) for j in range(count)]
    return torch.stack(list(after), -1), torch.stack(columns, -1)


def _gru(x: Tensor, a: Tensor, s: Sequence[Tensor]) -> tuple[list[Tensor], _Tangent]:
    (h,) = s
    z, r = torch.sigmoid(a[0] * h + x[:, :, 0]), torch.sigmoid(a[1] * h + x[:, :, 1])
    q = torch.tanh(a[2] * h * r + x[:, :, 2])

    def tangent(d: Sequence[float]) -> list[Tensor]:
        dz, dr, dq = z * (1 - z), r * (1 - r), 1 - q * q
        return [((1 - z) + (q - h) * dz * a[0] + z * dq * a[2] * (r + h * dr * a[1])) * d[0]]

    return [z * q + (1 - z) * h], tangent


def _lstm(x: Tensor, a: Tensor, p: Tensor, s: Sequence[Tensor]) -> tuple[list[Tensor], _Tangent]:
    h, c = s
    f = torch.sigmoid(a[0] * h + x[:, :, 0] + p[0] * c)
    q = torch.tanh(a[2] * h + x[:, :, 2])
    new = f * c + (1 - f) * q
    o, bounded = torch.sigmoid(a[1] * h + x[:, :, 1] + p[1] * new), torch.tanh(new)

    def tangent(d: Sequence[float]) -> list[Tensor]:
        dc = d[1] * f + (c - q) * f * (1 - f) * (d[0] * a[0] + d[1] * p[0]) + d[0] * (1 - f) * (1 - q * q) * a[2]
        do = o * (1 - o) * (d[0] * a[1] + dc * p[1])
        return [bounded * do + o * (1 - bounded * bounded) * dc, dc]

    return [o * bounded, new], tangent


def _slstm(x: Tensor, a: Tensor, s: Sequence[Tensor]) -> tuple[list[Tensor], _Tangent]:
    h, c, n, m = s
    gates = [x[:, :, g] + a[g] * h for g in range(4)]
    ell = logsigmoid(gates[1]) + m
    # The derivative of m with respect to the input gate's pre-activation; 1/2 at a tie, as in the kernels
    chosen = torch.where((n == 0) | (gates[0] > ell), 1.0, torch.where(gates[0] == ell, 0.5, 0.0)).to(h.dtype)
    top = torch.where(n == 0, gates[0], torch.maximum(gates[0], ell))
    i, f = (gates[0] - top).clamp(max=0).exp(), (ell - top).clamp(max=0).exp()
    z, o = torch.tanh(gates[2]), torch.sigmoid(gates[3])
    sum_c, sum_n = f * c + i * z, f * n + i
    new_n = sum_n.clamp(min=1)
    new_h = o * sum_c / new_n

    def tangent(d: Sequence[float]) -> list[Tensor]:
        d_ell = torch.sigmoid(-gates[1]) * (d[0] * a[1]) + d[3]
        dm = chosen * (d[0] * a[0]) + (1 - chosen) * d_ell
        di, df = i * (d[0] * a[0] - dm), torch.where(ell <= top, f * (d_ell - dm), 0)
        dc = f * d[1] + c * df + d[0] * i * (1 - z * z) * a[2] + z * di
        dn = torch.where(sum_n >= 1, f * d[2] + n * df + di, 0)
        return [(d[0] * o * (1 - o) * a[3] * sum_c + o * dc - new_h * dn) / new_n, dc, dn, dm]

    return [new_h, sum_c, new_n, top], tangent
