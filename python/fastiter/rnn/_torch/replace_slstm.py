"""The cells of xLSTM's packages on fastiter's kernels: an sLSTM or LSTM over pre-activations (B, T, 4 H)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .functional import FUNCTIONS
from .nn.slstm_layouts import recurrence_of
from .run import rounding_products

_KERNEL, _BIAS = "_recurrent_kernel_", "_bias_"  # the names in all of their checkpoints
_CELLS = ("slstm", "lstm")
_CLIPS = ("gradient_recurrent_cut", "gradient_recurrent_clipval", "forward_clipval", "constants")


def forward_of_cell(
    self: Any, input: Tensor, state: Tensor | None = None, lengths: Any = None
) -> tuple[Tensor, Tensor]:
    """Return the output in the config's layout and the last states (S, B, H): the forward of a replaced cell.

    Parameters
    ----------
    input : Tensor
        The pre-activations (B, T, 4 H), or (T, B, 4 H), depending on the config's input_shape.
    state : Tensor, optional
        Initial states (S, B, H); None: zeros.
    lengths
        Ignored, as in xlstm's cells.
    """
    config = self.config
    heads, width = config.num_heads, config.head_dim
    kernel, bias, is_tirex = getattr(self, _KERNEL), getattr(self, _BIAS), _is_tirex(config)
    kernel = kernel.bfloat16() if is_tirex else kernel
    wx = input.to(kernel.dtype).unflatten(-1, (4, heads, width))
    if getattr(config, "input_shape", "BSGNH") == "SBGNH":
        wx = wx.transpose(0, 1)
    r, b = recurrence_of(kernel, bias.float() if is_tirex else bias.to(kernel.dtype), heads, width)
    first = None
    if state is not None:
        rest = torch.float32 if kernel.dtype.itemsize == 2 else kernel.dtype
        state = state.bfloat16() if is_tirex else state
        first = [s.unflatten(-1, (heads, width)).to(rest if k else kernel.dtype) for k, s in enumerate(state)]
    if is_tirex and wx.device.type == "cpu":
        h, last = rounding_products(wx, r, b, first)
    else:
        h, last = FUNCTIONS[_function(config)](wx, r, b.to(kernel.dtype), first)[:2]
    return _laid_out(config, h).to(input.dtype), torch.stack([s.flatten(1).to(input.dtype) for s in last])


def _is_tirex(config: Any) -> bool:
    """Return whether a cell is tirex's, which rounds to bfloat16 whatever the dtype of its parameters.

    It rounds the kernel, the pre-activations, the product with the kernel, and the states after each step.
    """
    return not hasattr(config, "function")


def _function(config: Any) -> str:
    function: str = getattr(config, "function", "slstm")
    return function


def name_of_function(module: Any) -> str:
    """Return the name of the function that computes a cell."""
    return _function(module.config)


def _laid_out(config: Any, h: Tensor) -> Tensor:
    """Return h (B, T, N, D) in the layout of the config's output_shape."""
    shape = getattr(config, "output_shape", "BNSH")
    if shape == "BNSH":
        return h.transpose(1, 2)
    if shape == "BSH":
        return h.flatten(2)
    return h.transpose(0, 1) if shape == "SBNH" else h.transpose(0, 1).flatten(2)


def is_slstm_cell(module: Any) -> bool:
    """Return whether a module has the parameters and the config of such a cell."""
    parameters: dict[str, Any] = module._parameters
    if set(parameters) != {_KERNEL, _BIAS} or not all(isinstance(p, Tensor) for p in parameters.values()):
        return False
    config = getattr(module, "config", None)
    heads, width, gates = (getattr(config, name, None) for name in ("num_heads", "head_dim", "num_gates"))
    if not (isinstance(heads, int) and isinstance(width, int)) or gates != 4:
        return False
    kernel, bias, units = parameters[_KERNEL], parameters[_BIAS], 4 * heads * width
    return bool(kernel.shape[:1] == (heads,) and kernel.numel() == units * width and bias.numel() == units)


def reason_against_cell(module: Any) -> str | None:
    """Return why a cell is not replaced, mainly because it computes something else; None if it can be."""
    config = module.config
    for name in _CLIPS:
        if getattr(config, name, None):
            return f"its config has {name}"
    if _function(config) not in _CELLS:
        return f"its function is {_function(config)}"
    try:
        is_same = _computes_the_same(module)
    except Exception as error:  # whatever its forward raises
        return f"its forward fails: {error}"
    rounded = " with the products and states rounded to bfloat16" if _is_tirex(config) else ""
    return None if is_same else f"its forward does not compute what fastiter.torch.{_function(config)} does{rounded}"


@torch.no_grad()
def _computes_the_same(module: Any) -> bool:
    """Compare a cell's forward with fastiter's, with random weights, as its own are zero initially."""
    generator = torch.Generator().manual_seed(0)
    config, kernel, bias = module.config, module._parameters[_KERNEL], module._parameters[_BIAS]

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(kernel.dtype)

    trial: Any = object.__new__(type(module))
    weights = {_KERNEL: randn(*kernel.shape) / config.head_dim**0.5, _BIAS: randn(*bias.shape)}
    trial.__dict__.update(module.__dict__, _parameters=weights)
    state = None
    for steps in (3, 2):  # from zeros, then from the state reached
        x = randn(2, steps, 4 * config.num_heads * config.head_dim)
        x = x.transpose(0, 1) if getattr(config, "input_shape", "BSGNH") == "SBGNH" else x
        theirs, ours = trial.forward(x, state), forward_of_cell(trial, x, state)
        bound = 2**-9 if _is_tirex(config) else None
        if not all(_is_close(*both, bound) for both in zip(ours, theirs, strict=True)):
            return False
        state = theirs[1]
    return True


def _is_close(ours: Tensor, theirs: Tensor, bound: float | None) -> bool:
    """Return whether two results differ only by rounding; the default bound is larger for bfloat16."""
    if bound is None:
        bound = 2**-5 if theirs.dtype == torch.bfloat16 else 2**-12
    return ours.shape == theirs.shape and bool((ours - theirs).double().norm() <= bound * theirs.double().norm())
