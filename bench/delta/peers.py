"""The delta rule in PyTorch alone: a loop over the steps, and the chunked (WY) form with a batched triangular solve.

Both take q, k (B, T, N, K), v (B, T, N, V) and beta (B, T, N), start from a state of zeros, and return (o, last) with
o (B, T, N, V) and last (B, N, K, V). Without decay; differentiable by autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def delta_loop(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """S = S + k (beta (v - S^T k))^T, o = S^T q, one step after the other."""
    S = q.new_zeros(*q.shape[:1], *q.shape[2:], v.shape[-1])
    outputs = []
    for qt, kt, vt, bt in zip(q.unbind(1), k.unbind(1), v.unbind(1), beta.unbind(1), strict=True):
        w = bt.unsqueeze(-1) * (vt - (kt.unsqueeze(-2) @ S).squeeze(-2))
        S = S + kt.unsqueeze(-1) * w.unsqueeze(-2)
        outputs.append((qt.unsqueeze(-2) @ S).squeeze(-2))
    return (torch.stack(outputs, 1) if outputs else torch.empty_like(v)), S


def delta_chunks(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, chunk: int = 64) -> tuple[Tensor, Tensor]:
    """The same in chunks of C steps; one batched solve applies T = (I + tril(diag(beta) K K^T, -1))^-1 to all chunks.

    U = T diag(beta) V, W = T diag(beta) K; then, for each chunk, E = U - W S, O = Q S + tril(Q K^T) E, S = S + K^T E.
    """
    time = q.shape[1]
    q, k, v = (_cut(x, chunk) for x in (q, k, v))
    scaled = _cut(beta.unsqueeze(-1), chunk)
    k_beta, v_beta = scaled * k, scaled * v
    k_across = k.transpose(-1, -2)
    solved = torch.linalg.solve_triangular(
        k_beta @ k_across, torch.cat([v_beta, k_beta], -1), upper=False, unitriangular=True
    )
    U, W = solved.split([v.shape[-1], k.shape[-1]], -1)
    scores = (q @ k_across).tril()
    S = q.new_zeros(*q.shape[1:3], k.shape[-1], v.shape[-1])
    outputs = []
    for qc, kc, uc, wc, ac in zip(q, k_across, U, W, scores, strict=True):
        E = uc - wc @ S
        outputs.append(qc @ S + ac @ E)
        S = S + kc @ E
    o = torch.stack(outputs, 2) if outputs else v.movedim(0, 2)
    return o.flatten(2, 3)[:, :, :time].transpose(1, 2), S


def _cut(x: Tensor, chunk: int) -> Tensor:
    """(B, T, N, D) as (chunks, B, N, C, D), padded with zeros: a beta of 0 leaves the state unchanged."""
    missing = -x.shape[1] % chunk
    padded = pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
    batch, time, heads, width = padded.shape
    return padded.reshape(batch, time // chunk, chunk, heads, width).permute(1, 0, 3, 2, 4).contiguous()
