"""sLSTMBlock: the residual block of the xLSTM paper around an sLSTM, with the names of xlstm's checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from ...._check import fits_float
from ...._torch.modules.sequence_layer import (
    Part,
    SequenceLayer,
    State,
    check_bool,
    check_choice,
    check_count,
    check_heads,
    name_of,
)
from ..functional import slstm
from .slstm_layouts import LAYOUTS, in_layout, recurrence_of, shapes_in
from .xlstm_stack import options_of_xlstm, stack_of_state, state_of_stack

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}
_ROUND = 64  # the feed-forward's width is a multiple of this
_MAX_UNITS = 2**40  # larger than any memory, but still a valid size


class sLSTMBlock(SequenceLayer):
    """u_t = x_t + GroupNorm(h_t), y_t = u_t + W_down (act(a_t) b_t) with a_t, b_t = W_up LayerNorm(u_t).

    h is an sLSTM over LayerNorm(x): the input of its gates i and f is SiLU of a causal depthwise convolution, that of z
    and o is LayerNorm(x) itself, with separate weights per head. GroupNorm normalises each head of h. All norms scale
    by 1 + weight.

    The state_dict has the names and shapes of the package xlstm, so that checkpoints are interchangeable:
    ``xlstm_norm.weight`` (H); ``xlstm.conv1d.conv.weight`` (H, 1, K) and ``.bias`` (H); ``xlstm.igate.weight``,
    ``fgate``, ``zgate``, ``ogate`` (N, D, D), where, as in that package, fgate computes the gate i and igate the gate
    f; ``xlstm.slstm_cell._recurrent_kernel_`` (N, D in, 4 D out) and ``_bias_`` (4 H), for each head the gates i, f, z,
    o; ``xlstm.group_norm.weight`` (H); ``ffn_norm.weight`` (H); ``ffn.proj_up.weight`` (2 U, H);
    ``ffn.proj_down.weight`` (H, U). Checkpoints in a layout other than `layout` are converted on loading.

    The state is (h, c, n, m), each (B, H), and with a convolution also the convolution's last inputs,
    (B, conv_size - 1, H).

    Parameters
    ----------
    embedding_size : int
        H, the size of inputs and outputs.
    batch_first : bool
        Batches are (B, T, H). As in torch.nn they are (T, B, H) by default.
    device : torch.device, optional
        The device of the parameters.
    dtype : torch.dtype, optional
        float32 or float64.
    num_heads : int
        N. Divides embedding_size; D = H / N.
    conv_size : int
        Width of the convolution in steps, 0 for none.
    ffn_factor : float
        U is H times this factor, rounded up to a multiple of 64; 0 for no feed-forward part.
    activation : {"gelu", "relu", "silu"}
        The activation act.
    dropout : float
        Dropout probability, for h and for the output of the feed-forward part.
    block_index, num_blocks : int
        Index of the block in its model, from 0, and number of blocks, for the initialisation.
    layout : {"cuda", "vanilla"}
        The backend of xlstm whose layout the kernel and bias have: "cuda" as above, the default of xlstm too;
        "vanilla" with a kernel (N, 4 D out, D in), and a bias with the heads inside each gate.
    stacked : bool
        For use in xlstm's xLSTMBlockStack: batches are (B, T, H), and forward returns only the output. `step` takes
        (B, 1, H) and returns the state as a dict of its keyword arguments.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    sLSTM : The recurrent layer alone.
    fastiter.torch.accelerate : Runs the blocks of existing xLSTM models.

    References
    ----------
    Beck et al., xLSTM, arXiv:2405.04517, 2024, figure 10.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import sLSTMBlock
    >>> block = sLSTMBlock(32, num_heads=4)
    >>> x = torch.randn(10, 3, 32)
    >>> y, state = block(x[:9])
    >>> y, state = block.step(x[9], state)
    >>> y.shape, state[0].shape, state[4].shape
    (torch.Size([3, 32]), torch.Size([3, 32]), torch.Size([3, 3, 32]))
    """

    __call__: Callable[..., Any]

    def __init__(
        self,
        embedding_size: int,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        num_heads: int = 4,
        conv_size: int = 4,
        ffn_factor: float = 1.3,
        activation: Literal["gelu", "relu", "silu"] = "gelu",
        dropout: float = 0.0,
        block_index: int = 0,
        num_blocks: int = 1,
        layout: Literal["cuda", "vanilla"] = "cuda",
        stacked: bool = False,
    ) -> None:
        super().__init__(embedding_size, embedding_size, check_bool(self, "stacked", stacked) or batch_first)
        self.layout = check_choice(self, "layout", layout, LAYOUTS)
        self.stacked = stacked
        self.num_heads = check_heads(self, num_heads, embedding_size=embedding_size)
        self.conv_size = check_count(self, "conv_size", conv_size, minimum=0)
        self.activation = check_choice(self, "activation", activation, tuple(_ACTIVATIONS))
        self.dropout = _check_number(self, "dropout", dropout, 1.0)
        self.num_blocks = check_count(self, "num_blocks", num_blocks)
        self.block_index = check_count(self, "block_index", block_index, minimum=0)
        if block_index >= num_blocks:
            raise ValueError(f"sLSTMBlock: block_index must be below num_blocks = {num_blocks}, got {block_index}")
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        self.xlstm_norm = _Scale(embedding_size, kind)
        self.xlstm = _Layer(embedding_size, num_heads, conv_size, layout, kind)
        width = _check_number(self, "ffn_factor", ffn_factor, _MAX_UNITS / embedding_size) * embedding_size
        width = _ROUND * math.ceil(width / _ROUND)
        self.ffn_norm = _Scale(embedding_size, kind) if width else None
        self.ffn = _FeedForward(embedding_size, width, kind) if width else None
        self.reset_parameters()

    @classmethod
    def from_xlstm(cls, block: nn.Module) -> sLSTMBlock:
        """Return a stacked block that replaces a block of the package xlstm and shares its parameters.

        Parameters
        ----------
        block : Module
            An element of an xLSTMBlockStack's `blocks` that is an sLSTM.

        Returns
        -------
        sLSTMBlock
            ``stack.blocks[k] = sLSTMBlock.from_xlstm(stack.blocks[k])``: optimizers and checkpoints stay valid.

        Raises
        ------
        TypeError, ValueError
            If it is not such a block, or has an option that this class does not support.
        """
        options, weights = options_of_xlstm(block)
        created = cls(**options, device="meta", stacked=True)
        created.load_state_dict(weights, assign=True)
        return created.train(block.training)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: Any = None,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        conv_state: Any = None,
        slstm_state: Any = None,
    ) -> Any:
        """Return output and final state, as in ``LinearRNN.forward``; if `stacked`, only the output.

        Parameters
        ----------
        input : Tensor or PackedSequence
            As for ``LinearRNN.forward``.
        state : tuple of Tensor, optional
            Likewise.
        lengths : integers (B,), optional
            Likewise.
        conv_state, slstm_state : Tensor, optional
            If `stacked`, the state by name: the last inputs (B, K, H), and h, c, n and m stacked (4, B, H).

        Returns
        -------
        output : Tensor or PackedSequence
            The output of each step.
        state : tuple of Tensor, or dict
            The final state; not returned if `stacked`.
        """
        state = self._named(input, state, conv_state, slstm_state)
        output, last = super().forward(input, state, lengths)
        return output if self.stacked else (output, last)

    def step(self, input: Tensor, state: Any = None, *, conv_state: Any = None, slstm_state: Any = None) -> Any:
        """Return output and state after one more step.

        If `stacked`, output and input are (B, 1, H), and the state is a dict of its two parts by name.

        Parameters
        ----------
        input : Tensor (B, H) or (H,)
            The input of the step; (B, 1, H) if `stacked`.
        state : tuple of Tensor or dict, optional
            The state, in the form that forward takes and returns; zeros by default.
        conv_state, slstm_state : Tensor, optional
            As for :meth:`forward`.

        Returns
        -------
        output : Tensor
            The output of the step, shaped like the input.
        state : tuple of Tensor, or dict if `stacked`
            The state after the step; the dict contains its two parts by name.
        """
        state = self._named(input, state, conv_state, slstm_state)
        if not self.stacked:
            return super().step(input, state)
        if isinstance(input, Tensor) and (input.dim() != 3 or input.shape[1] != 1):
            raise ValueError(f"{name_of(self)}: input of a step must have shape (B, 1, H), got {tuple(input.shape)}")
        output, last = super().forward(input, state)
        return output, stack_of_state(last, state)

    def _named(self, input: Any, state: Any, conv_state: Any, slstm_state: Any) -> Any:
        """Return the state, given either as a whole or by name."""
        if conv_state is None and slstm_state is None:
            return state
        if not self.stacked or state is not None or not isinstance(input, Tensor) or input.dim() != 3:
            condition = "if stacked is True, for input (B, T, H), in place of state"
            raise ValueError(f"{name_of(self)}: conv_state and slstm_state must be given only {condition}")
        return state_of_stack(name_of(self), conv_state, slstm_state, input, self.conv_size)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize as xlstm does: zero recurrent weights; forget biases that follow a power of the unit's index."""
        size, layer = self.hidden_size, self.xlstm
        small = math.sqrt(2 / (5 * size))
        for gate in (layer.igate, layer.fgate, layer.zgate, layer.ogate):
            nn.init.normal_(gate.weight, std=small)
        if layer.conv1d is not None:
            layer.conv1d.conv.reset_parameters()
        for norm in (self.xlstm_norm, layer.group_norm, self.ffn_norm):
            if norm is not None:
                nn.init.zeros_(norm.weight)
        if self.ffn is not None:
            nn.init.normal_(self.ffn.proj_up.weight, std=small)
            nn.init.normal_(self.ffn.proj_down.weight, std=2 / self.num_blocks / math.sqrt(size))
        r, b = layer.slstm_cell.weights()
        nn.init.zeros_(r)
        nn.init.zeros_(b)
        width = size // self.num_heads
        depth = self.block_index / max(self.num_blocks - 1, 1)
        unit = torch.arange(width, dtype=b.dtype, device=b.device) / max(width - 1, 1)
        b[1] = 5 - 12 * unit ** (0.3 + 1.3 * depth)

    def extra_repr(self) -> str:
        """Return the sizes, and the options that differ from their defaults."""
        parts = [f"{self.hidden_size}, num_heads={self.num_heads}"]
        parts += ["batch_first=True"] if self.batch_first else []
        parts += [f"conv_size={self.conv_size}"] if self.conv_size != 4 else []
        parts += [f"activation={self.activation!r}"] if self.activation != "gelu" else []
        parts += [f"dropout={self.dropout}"] if self.dropout else []
        parts += [f"block_index={self.block_index}, num_blocks={self.num_blocks}"] if self.num_blocks != 1 else []
        parts += [f"layout={self.layout!r}"] if self.layout != "cuda" else []
        parts += ["stacked=True"] if self.stacked else []
        return ", ".join(parts)

    def _like(self) -> Tensor:
        return self.xlstm_norm.weight

    def _parts(self) -> Sequence[Part]:
        dtype, size = self._like().dtype, self.hidden_size
        states = [Part(name, (size,), dtype) for name in ("h", "c", "n", "m")]
        return [*states, Part("recent", (self.conv_size - 1, size), dtype)] if self.conv_size else states

    def _run(
        self, x: Tensor, time: int, first: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        layer, heads = self.xlstm, self.num_heads
        inner = self._cast(F.layer_norm(x, x.shape[-1:], 1 + self.xlstm_norm.weight, eps=1e-5))
        convolved, recent = inner, None
        if layer.conv1d is not None:
            conv = layer.conv1d.conv
            before = None if first is None else first[4]
            convolved, recent = self._convolve(inner, time, conv.weight[:, 0], before, lengths)
            convolved = F.silu(convolved if conv.bias is None else convolved + conv.bias)
        wx = torch.cat([layer.gates(convolved, "fgate", "igate"), layer.gates(inner, "zgate", "ogate")], -3)
        r, b = layer.slstm_cell.weights()
        start = None if first is None else [s.unflatten(-1, (heads, -1)) for s in first[:4]]
        h, last = slstm(self._rows(wx, time), r, b, start, lengths=lengths)[:2]
        h = self._rows(F.dropout(h, self.dropout, self.training), time).flatten(-2)
        normed = F.group_norm(h.flatten(0, 1), heads, 1 + layer.group_norm.weight, eps=1e-5)
        y = x + normed.unflatten(0, h.shape[:2])
        states = [s.flatten(1) for s in last]
        return self._fed_forward(y), states if recent is None else [*states, recent]

    def _fed_forward(self, u: Tensor) -> Tensor:
        if self.ffn is None or self.ffn_norm is None:
            return u
        normed = F.layer_norm(u, u.shape[-1:], 1 + self.ffn_norm.weight, eps=1e-5)
        gate, up = self.ffn.proj_up(normed).chunk(2, -1)
        added = self.ffn.proj_down(_ACTIVATIONS[self.activation](gate) * up)
        return u + self._cast(F.dropout(added, self.dropout, self.training))


def _check_number(module: nn.Module, label: str, value: Any, largest: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name_of(module)}: {label} must be a number, got {type(value).__name__}")
    if not 0 <= value <= largest:
        got = value if fits_float(value) else "a larger number"
        raise ValueError(f"{name_of(module)}: {label} must be from 0 to {largest:g}, got {got}")
    return float(value)


# The following modules only hold parameters under the names of xlstm's checkpoints; the computation is above.


class _Scale(nn.Module):
    def __init__(self, size: int, kind: dict[str, Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, **kind))


class _Heads(nn.Module):
    def __init__(self, heads: int, width: int, kind: dict[str, Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, width, width, **kind))


class _Convolution(nn.Module):
    def __init__(self, size: int, steps: int, kind: dict[str, Any]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(size, size, steps, groups=size, **kind)


class _FeedForward(nn.Module):
    def __init__(self, size: int, width: int, kind: dict[str, Any]) -> None:
        super().__init__()
        self.proj_up = nn.Linear(size, 2 * width, bias=False, **kind)
        self.proj_down = nn.Linear(width, size, bias=False, **kind)


class _Layer(nn.Module):
    def __init__(self, size: int, heads: int, steps: int, layout: str, kind: dict[str, Any]) -> None:
        super().__init__()
        width = size // heads
        self.conv1d = _Convolution(size, steps, kind) if steps else None
        self.fgate, self.igate = _Heads(heads, width, kind), _Heads(heads, width, kind)
        self.zgate, self.ogate = _Heads(heads, width, kind), _Heads(heads, width, kind)
        self.slstm_cell = _Cell(heads, width, layout, kind)
        self.group_norm = _Scale(size, kind)

    def gates(self, x: Tensor, *names: str) -> Tensor:
        """Return the pre-activations (., ., gates, N, D) of two gates with input x (., ., H)."""
        weight = torch.stack([getattr(self, name).weight for name in names])
        return torch.einsum("btnp,gndp->btgnd", x.unflatten(-1, (weight.shape[1], -1)), weight)


class _Cell(nn.Module):
    def __init__(self, heads: int, width: int, layout: str, kind: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.width, self.layout = heads, width, layout
        kernel, bias = shapes_in(layout, heads, width)
        self._recurrent_kernel_ = nn.Parameter(torch.empty(kernel, **kind))
        self._bias_ = nn.Parameter(torch.empty(bias, **kind))

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return r (4, N, D out, D in) and b (4, N, D), as views."""
        return recurrence_of(self._recurrent_kernel_, self._bias_, self.heads, self.width)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        names = prefix + "_recurrent_kernel_", prefix + "_bias_"
        kernel, bias = (state_dict.get(name) for name in names)
        if kernel is not None and bias is not None and kernel.shape != self._recurrent_kernel_.shape:
            heads, width = self.heads, self.width
            known = [shapes_in(layout, heads, width) for layout in LAYOUTS]
            known += [((heads, width, 4, width), (heads, 4, width))]  # neither flattened
            if (tuple(kernel.shape), tuple(bias.shape)) in known:
                kernel, bias = in_layout(self.layout, *recurrence_of(kernel, bias, heads, width))
                state_dict = {**state_dict, names[0]: kernel, names[1]: bias}
        super()._load_from_state_dict(state_dict, prefix, *others)
