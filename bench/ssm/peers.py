"""The peers of the selective scan: the loop of transformers' models, the same with unbound steps, and mambapy's scan.

All take u, delta, z (B, D, T), A (D, N), B, C (B, N, T), D and delta_bias (D,), like `selective_loop` in cases.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from bench.harness.contest import Absent, Entrant, Work, torch_entrant
from bench.harness.peers import absent, compile_once_for_all_threads, load
from bench.ssm.cases import Inference, step_loop

LOOP, UNBOUND = "loop of the models", "loop over unbound steps"
PSCAN, EAGER = "mambapy pscan", "torch, eager"
Peers = list[Entrant | Absent]
LONGEST_LOOP = 1024  # steps: with 2,048, a call of the models' loop with gradients takes 20 s
Scan = Callable[..., Tensor]


def factors(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor) -> tuple[Tensor, Tensor]:
    """The decays and the inputs of the state at all steps, (B, D, T, N)."""
    d = softplus(delta + delta_bias[:, None])
    return torch.exp(d[..., None] * A[:, None]), (d * u)[..., None] * B.transpose(1, 2)[:, None]


def model_loop(
    unbound: bool, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """Compute the factors for all steps at once, then loop: over slices, as in the models, or over unbound steps.

    The gradient of a slice is as large as the whole array, so that the former's backward pass is quadratic in time.
    """
    decays, inputs = factors(u, delta, A, B, delta_bias)
    h = decays.new_zeros(decays.shape[0], decays.shape[1], decays.shape[3])
    steps = range(decays.shape[2])
    a, x = (decays.unbind(2), inputs.unbind(2)) if unbound else (decays.movedim(2, 0), inputs.movedim(2, 0))
    c = C.transpose(1, 2)
    outputs = []
    for t in steps:
        h = a[t] * h + x[t]
        outputs.append(torch.matmul(h, c[:, t, :, None])[..., 0])
    return (torch.stack(outputs, 2) + D[:, None] * u) * silu(z)


def with_pscan(
    scan: Callable[[Tensor, Tensor], Tensor],
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
) -> Tensor:
    """The loop replaced by mambapy's parallel scan over (B, T, D, N)."""
    decays, inputs = (x.transpose(1, 2).contiguous() for x in factors(u, delta, A, B, delta_bias))
    h = scan(decays, inputs)
    y = (h @ C.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    return (y + D[:, None] * u) * silu(z)


def scans(compiled: bool) -> list[tuple[str, str, Scan | None]]:
    """(peer, variant, function or None if it is not installed)"""
    module = load("mambapy.pscan")
    result: list[tuple[str, str, Scan | None]] = [
        (LOOP, "", partial(model_loop, False)),
        (UNBOUND, "", partial(model_loop, True)),
        (PSCAN, "", partial(with_pscan, module.pscan) if module else None),
    ]
    if compiled and module:
        compile_once_for_all_threads()
        result.append(
            (PSCAN, "compiled around it", torch.compile(partial(with_pscan, torch.compiler.disable(module.pscan))))
        )
    return result


def entrants(work: Work, compiled: bool) -> Peers:
    return [
        absent(name, "mambapy") if function is None else torch_entrant(name, function, work, variant)
        for name, variant, function in scans(compiled)
        if name != LOOP or work.length <= LONGEST_LOOP
    ]


def inference_entrants(task: Inference, compiled: bool) -> Peers:
    """The same without gradients."""
    return [
        absent(name, "mambapy") if function is None else inference_entrant(name, function, task, variant)
        for name, variant, function in scans(compiled)
    ]


def inference_entrant(name: str, function: Scan, task: Inference, variant: str = "") -> Entrant:
    call = partial(function, *task.inputs)
    return Entrant(name, call, lambda: {"out": call()}, variant)


def step_entrants(task: Inference) -> Peers:
    return [inference_entrant(EAGER, step_loop, task)]
