"""The ops of Hopfield networks in torch operations, for GPUs, where the kernels do not run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .hopfield_ops import (
    HopfieldAdjoint,
    HopfieldBackward,
    HopfieldForward,
    forward_outputs,
    hopfield_adjoint,
    hopfield_bwd,
    hopfield_fwd,
    report_adjoint,
    report_forward,
)


def _softmax(x: Tensor, stored: Tensor, beta: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights (..., L, S), the largest product and the inverse sum: 0 where there is no pattern."""
    z = beta[..., None, None] * (x @ stored.mT)
    z = z if bias is None else z + bias
    if z.shape[-1] == 0:
        return z, z.new_zeros(z.shape[:-1]), z.new_zeros(z.shape[:-1])
    largest = z.amax(-1)
    largest = torch.where(largest == -math.inf, 0, largest)
    weights = (z - largest[..., None]).exp()
    total = weights.sum(-1)
    inverse = torch.where(total == 0, 0, 1 / total)
    return weights * inverse[..., None], largest, inverse


def forward(call: HopfieldForward) -> list[Tensor]:
    """Implement fastiter::_hopfield_fwd: queries that have stopped keep their state; each update synchronizes once."""
    outputs = forward_outputs(call)
    value, converged, steps, residual, *saved = outputs
    value.copy_(call.state)
    converged.fill_(False)
    steps.zero_()
    residual.fill_(math.inf)
    if call.save:
        saved[0][0] = value
    is_open = torch.ones_like(converged)
    for step in range(call.max_steps):
        weights, largest, inverse = _softmax(value, call.stored, call.beta, call.bias)
        new = weights @ call.stored
        change = torch.linalg.vector_norm(new - value, dim=-1)
        near = change <= call.atol + call.rtol * torch.linalg.vector_norm(new, dim=-1)
        value.copy_(torch.where(is_open[..., None], new, value))
        residual.copy_(torch.where(is_open, change, residual))
        converged.copy_(torch.where(is_open, near, converged))
        steps += is_open
        if call.save:
            saved[0][step + 1] = value
            saved[1][step], saved[2][step] = largest, inverse
        if call.stops:
            is_open = is_open & ~near
            if not bool(is_open.any()):
                break
    report_forward(call, outputs)
    return outputs


def _through(g: Tensor, weights: Tensor, x: Tensor, stored: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, stored and beta for the gradient g of one update."""
    gradient = g @ stored.mT
    dz = weights * (gradient - (weights * gradient).sum(-1, keepdim=True))
    scaled = beta[..., None, None] * dz
    return scaled @ stored, weights.mT @ g + scaled.mT @ x, (dz * (x @ stored.mT)).sum((-2, -1))


def backward(call: HopfieldBackward) -> list[Tensor]:
    """Implement fastiter::_hopfield_bwd."""
    g, dstored, dbeta = call.dvalue.clone(), torch.zeros_like(call.stored), torch.zeros_like(call.beta)
    for step in reversed(range(int(call.steps.max()) if call.steps.numel() else 0)):
        runs = (call.steps > step)[..., None]
        x = torch.where(runs, call.states[step], 0)  # a query's states are unknown after its last update
        z = call.beta[..., None, None] * (x @ call.stored.mT)
        z = z if call.bias is None else z + call.bias
        weights = (z - call.largest[step][..., None]).exp() * call.inverse[step][..., None]
        result = _through(torch.where(runs, g, 0), torch.where(runs, weights, 0), x, call.stored, call.beta)
        g, dstored, dbeta = torch.where(runs, result[0], g), dstored + result[1], dbeta + result[2]
    return [g.contiguous(), dstored.contiguous(), dbeta.contiguous()]


def adjoint(call: HopfieldAdjoint) -> list[Tensor]:
    """Implement fastiter::_hopfield_adjoint: conjugate gradients for each query, in float64."""
    x, stored, beta, right = (t.double() for t in (call.value, call.stored, call.beta, call.dvalue))
    weights = _softmax(x, stored, beta, None if call.bias is None else call.bias.double())[0]

    def system(u: Tensor) -> Tensor:
        """Return u - J u."""
        return u - _through(u, weights, x, stored, beta)[0]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1, keepdim=True)

    u, r, d = torch.zeros_like(right), right, right
    energy = dot(r, r)
    target = energy * call.rtol**2 / 4  # with a margin for the rounding of the residual
    for _ in range(4 * x.shape[-1] + 100):
        is_open = energy > target
        if not bool(is_open.any()):
            break
        image = system(d)
        curvature = dot(d, image)
        alpha = torch.where(is_open & (curvature != 0), energy / curvature, 0)
        u, r = u + alpha * d, r - alpha * image
        before, energy = energy, torch.where(is_open, dot(r, r), energy)
        d = torch.where(is_open, r + energy / torch.where(before == 0, 1, before) * d, d)
    size = torch.linalg.vector_norm(right, dim=-1)
    left = torch.linalg.vector_norm(right - system(u), dim=-1) / torch.where(size == 0, 1, size)
    _, dstored, dbeta = _through(u, weights, x, stored, beta)
    outputs = [t.to(call.value.dtype).contiguous() for t in (dstored, dbeta, left)]
    report_adjoint(call, outputs)
    return outputs


hopfield_fwd.on_cuda(forward)
hopfield_bwd.on_cuda(backward)
hopfield_adjoint.on_cuda(adjoint)
