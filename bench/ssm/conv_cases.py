"""The tasks and peers of causal convolutions with SiLU, four taps, in float32: rows, channels and a single step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

import fastiter.torch
from bench.harness.contest import Entrant, Work, leaves, torch_entrant
from bench.harness.peers import compile_once_for_all_threads
from bench.ssm.cases import Inference

Shape = tuple[int, int, int]  # (B, D, T)
FULL: Shape = (1, 512, 2048)
QUICK: Shape = (1, 24, 40)
STEPS: tuple[Shape, ...] = ((1, 1024, 1), (8, 1024, 1))
WIDTH = 4
MODELS = "conv1d of the models"
ROWS, CHANNELS = "time contiguous", "channels contiguous"
ORDERS = (ROWS, CHANNELS)
Function = Callable[..., Tensor]


def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = fastiter.torch.ssm.causal_conv1d(x, weight, bias, activation="silu")
    assert isinstance(out, Tensor)
    return out


def loop(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The equation, tap by tap, trusted by the gate."""
    time, width = x.shape[2], weight.shape[1]
    padded = torch.cat([x.new_zeros(*x.shape[:2], width - 1), x], 2)
    pre = sum(weight[:, j, None] * padded[..., j : j + time] for j in range(width)) + bias[:, None]
    return pre * torch.sigmoid(pre)


def of_models(contiguous: bool, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A padded convolution of all channels, cut to the steps; `contiguous`: followed by a transposing copy."""
    x = x.contiguous() if contiguous else x
    channels, width = weight.shape
    return silu(conv1d(x, weight[:, None], bias, padding=width - 1, groups=channels)[..., : x.shape[2]])


def inputs_of(shape: Shape, order: str) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    x = torch.randn(shape)
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if order == CHANNELS else x
    return x, 0.5 * torch.randn(shape[1], WIDTH), torch.randn(shape[1])


def inference(shape: Shape, order: str) -> Inference:
    return Inference(f"{shape}, {order}", ours, loop, inputs_of(shape, order), shape[2])


def gradients(shape: Shape, order: str) -> Work:
    inputs = leaves(**dict(zip(("x", "weight", "bias"), inputs_of(shape, order), strict=True)))
    return Work(f"{shape}, {order}", ours, loop, inputs, torch.randn_like(inputs["x"]), shape[2])


def ways(order: str, compiled: bool) -> dict[str, Function]:
    """The peer's variants; the fastest counts."""
    functions: dict[str, Function] = {"": partial(of_models, False)}
    if order == CHANNELS:
        functions["copied first"] = partial(of_models, True)
    if compiled:
        compile_once_for_all_threads()
        functions |= {f"{variant} compiled".strip(): torch.compile(function) for variant, function in functions.items()}
    return functions


def inference_entrants(task: Inference, order: str, compiled: bool) -> list[Entrant]:
    return [entrant(function, task, variant) for variant, function in ways(order, compiled).items()]


def gradient_entrants(work: Work, order: str, compiled: bool) -> list[Entrant]:
    return [torch_entrant(MODELS, function, work, variant) for variant, function in ways(order, compiled).items()]


def entrant(function: Function, task: Inference, variant: str = "") -> Entrant:
    call = partial(function, *task.inputs)
    return Entrant(MODELS, call, lambda: {"out": call()}, variant)


# ---- One step -------------------------------------------------------------------------------------------------------


def step_of_models(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The state with the step appended, as in transformers' causal_conv1d_update."""
    inputs = torch.cat([state, x[:, :, None]], -1)
    state.copy_(inputs[:, :, -state.shape[2] :])
    return silu(conv1d(inputs, weight[:, None], bias, groups=weight.shape[0])[:, :, -1])


def our_step(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return fastiter.torch.ssm.causal_conv1d_update(x, state, weight, bias, "silu")


def step(shape: Shape) -> Inference:
    """A constant input and a state filled with it, so that every call does the same."""
    x, weight, bias = inputs_of((*shape[:2], 1), ROWS)
    state = x.expand(*shape[:2], WIDTH).contiguous()
    return Inference(f"one step of {shape[:2]}", our_step, step_of_models, (x[..., 0], state, weight, bias), WIDTH)
