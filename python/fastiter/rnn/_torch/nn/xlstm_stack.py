"""The interface between sLSTMBlock and xlstm's xLSTMBlockStack: states by name, and the options of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...._check import type_name

_ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "swish": "silu"}
_MULTIPLE = 64


def state_of_stack(name: str, conv_state: Any, slstm_state: Any, like: Tensor, conv_size: int) -> Any:
    """Convert the state that a stack passes to a block to the state of sLSTMBlock; `like` is the input (B, T, H)."""
    if conv_state is None and slstm_state is None:
        return None
    batch, size = like.shape[0], like.shape[-1]
    parts: list[Tensor] = []
    if slstm_state is None:
        parts += [like.new_zeros(batch, size) for _ in range(4)]
    elif isinstance(slstm_state, Tensor) and slstm_state.shape[:1] == (4,):
        parts += slstm_state.unbind(0)
    else:
        raise TypeError(f"{name}: slstm_state must be a Tensor (4, B, H), got {_got(slstm_state)}")
    if conv_size == 0:
        return parts
    if isinstance(conv_state, (tuple, list)) and len(conv_state) == 1:  # the form of xlstm's convolution step
        (conv_state,) = conv_state
    before = conv_size - 1
    if conv_state is None:
        conv_state = like.new_zeros(batch, before, size)
    if not isinstance(conv_state, Tensor) or conv_state.dim() != 3 or conv_state.shape[1] < before:
        expected = f"a Tensor (B, K, H) of K >= {before} inputs, or a tuple of one"
        raise TypeError(f"{name}: conv_state must be {expected}, got {_got(conv_state)}")
    return [*parts, conv_state[:, conv_state.shape[1] - before :]]


def stack_of_state(last: Sequence[Tensor], before: Any) -> dict[str, Any]:
    """Return the state after a step as xlstm's block does: the last conv_size inputs, and the stacked states."""
    conv_state = None
    if len(last) > 4:
        recent = last[4]
        oldest = recent[:, :1] if before is None else before[4][:, :1]
        if before is None or not recent.shape[1]:  # the oldest input is unknown, and unused
            oldest = recent.new_zeros(recent.shape[0], 1, recent.shape[2])
        conv_state = (torch.cat([oldest, recent], 1),)
    return {"conv_state": conv_state, "slstm_state": torch.stack(list(last[:4]))}


def options_of_xlstm(block: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the sLSTMBlock arguments that correspond to a block of xlstm, and its parameters by name."""
    config = getattr(block, "config", None)
    cell, ffn = getattr(config, "slstm", None), getattr(config, "feedforward", None)
    if not isinstance(block, nn.Module) or cell is None:
        raise TypeError(
            f"sLSTMBlock.from_xlstm: block must be an sLSTM block of the package xlstm, got {type_name(block)}"
        )
    weights = block.state_dict(keep_vars=True)
    heads, width = weights["xlstm.igate.weight"].shape[:2]
    kernel, conv = weights["xlstm.slstm_cell._recurrent_kernel_"], weights.get("xlstm.conv1d.conv.weight")
    down = weights.get("ffn.proj_down.weight")
    options: dict[str, Any] = {
        "embedding_size": heads * width,
        "num_heads": heads,
        "conv_size": 0 if conv is None else conv.shape[2],
        "ffn_factor": 0 if down is None else (down.shape[1] - 0.5) / (heads * width),  # will be rounded up
        "activation": _ACTIVATIONS.get(getattr(ffn, "act_fn", "gelu")),
        "dropout": cell.dropout,
        "block_index": getattr(config, "_block_idx", None) or 0,
        "num_blocks": getattr(config, "_num_blocks", None) or 1,
        "layout": "vanilla" if kernel.shape == (heads, 4 * width, width) else "cuda",
    }
    _check(cell, ffn, weights, options, down)
    return options, weights


def _check(cell: Any, ffn: Any, weights: dict[str, Tensor], options: dict[str, Any], down: Tensor | None) -> None:
    """Refuse options that sLSTMBlock does not support."""
    act_fn, dropout = getattr(ffn, "act_fn", "gelu"), getattr(ffn, "dropout", cell.dropout)
    width = 0 if down is None else down.shape[1]
    has_norm, has_bias = "xlstm.group_norm.weight" in weights, "ffn.proj_up.bias" in weights
    requirements = [
        (cell.function == "slstm", "function", "slstm", cell.function),
        (options["activation"] is not None, "act_fn", " or ".join(_ACTIVATIONS), act_fn),
        (dropout == cell.dropout, "dropout of the feed-forward part", f"{cell.dropout} like the other", dropout),
        (width % _MULTIPLE == 0, "width of the feed-forward part", f"a multiple of {_MULTIPLE}", width),
        (has_norm, "group_norm_weight", True, has_norm),
        (not has_bias, "bias of the feed-forward part", False, has_bias),
    ]
    for name in ("gradient_recurrent_cut", "gradient_recurrent_clipval", "forward_clipval"):
        value = getattr(cell, name, None)
        requirements.append((not value, name, "None or False", value))
    for is_met, name, expected, got in requirements:
        if not is_met:
            raise ValueError(f"sLSTMBlock.from_xlstm: {name} must be {expected}, got {got}")


def _got(x: object) -> str:
    return f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type_name(x)
