"""The ops of recurrent layers in torch's own operations, which torch.onnx.export can translate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._dynamo.config
from torch import Tensor
from torch._higher_order_ops.scan import scan

from .double_backward import EQUATIONS
from .ops import RnnForward

State = tuple[Tensor, ...]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def _rnn(*arguments: Any) -> list[Tensor]:
    call = RnnForward(*arguments)
    cell_name, wx, r, b, lengths, options = call.cell_name, call.wx, call.r, call.b, call.lengths, call.options
    if call.batch_sizes is not None or options.cu_seqlens is not None or call.save:
        got = "saved values for gradients" if call.save else "packed sequences"
        expected = "have rows side by side and no gradients"
        raise ValueError(f"onnx.decompose: program must {expected}, got {got}")
    x = _wide(wx).transpose(0, 1)
    now = [_wide(s) for s in call.state] or [x.new_zeros(x.shape[1], *x.shape[3:]) for _ in call.cell.states]
    inputs = [x]
    if lengths is not None:
        steps = torch.arange(x.shape[0], device=x.device)
        inputs.append(steps[:, None, None, None] < lengths[:, None, None])
    if options.reset is not None:
        inputs.append(options.reset.t()[:, :, None, None])
    step = _step(cell_name, _wide(r).clone(), None if b is None else _wide(b), options.clip_state)

    def body(now: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        x, *flags = inputs
        drops = flags.pop() if options.reset is not None else None
        prev = now if drops is None else [torch.where(drops, 0, s) for s in now]
        created = step(x, prev)
        if not flags:
            return list(created), [s.clone() for s in created]
        after = [torch.where(flags[0], n, s) for n, s in zip(created, now, strict=True)]
        return after, [torch.where(flags[0], n, 0) for n in created]

    last, every = scan(body, now, inputs, reverse=call.reverse)
    h, *others = (s.transpose(0, 1) for s in every)
    return [h.to(wx.dtype), last[0].to(wx.dtype), *last[1:], *(others if call.all_states else ())]


def _step(
    cell_name: str, r: Tensor, b: Tensor | None, clip_state: float | None
) -> Callable[[Tensor, Sequence[Tensor]], State]:
    """Return a step that reads no sizes, as symbolic sizes must not become arguments of the exported loop."""

    def step(x: Tensor, prev: Sequence[Tensor]) -> State:
        heads = prev[0].unbind(1)
        products = [
            torch.stack([torch.mm(h, one.t()) for h, one in zip(heads, gate.unbind(0), strict=True)], 1)
            for gate in r.unbind(0)
        ]
        y = torch.stack(products, 1)
        y = y if b is None else y + b
        if cell_name.startswith("elman"):
            a = (x + y).unbind(1)[0]
            h, *others = (torch.relu(a) if cell_name == "elman_relu" else torch.tanh(a),)
        else:
            h, *others = EQUATIONS[cell_name].step(x, y, tuple(prev))
        return (h if clip_state is None else h.clamp(-clip_state, clip_state), *others)

    return step


def _wide(x: Tensor) -> Tensor:
    """Return x in the dtype of the computation: float32 for 16-bit floats."""
    return x.float() if x.dtype.itemsize == 2 else x


def decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return the program with torch's operations in place of fastiter's."""
    ops = torch.ops.fastiter
    table: Any = {ops._linear_fwd.default: _linear, ops._rnn_fwd.default: _rnn}
    # Dynamo traces each loop's step, and would mark a size as dynamic if it differed in the previous loop.
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
        return program.run_decompositions(table)
