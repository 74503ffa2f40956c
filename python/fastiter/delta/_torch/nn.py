"""DeltaNet: an associative memory per head; each step moves the value stored under a key towards a new value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..._torch.modules.sequence_layer import (
    Part,
    SequenceLayer,
    State,
    check_bool,
    check_choice,
    check_count,
    check_heads,
)
from .functional import delta_scan


class DeltaNet(SequenceLayer):
    """o_t = S_t^T q_t, S_t = S_{t-1} + beta k (v - S_{t-1}^T k)^T: moves the value stored under key k towards v.

    With ||k|| = 1 the transition I - beta k k^T has the eigenvalues 1 and 1 - beta. beta = 2 sigmoid(.) gives a
    reflection at beta = 2, so that the state can alternate and permute; beta = sigmoid(.), as first published, cannot.
    With `num_householder` = M > 1 a step has M keys, values and betas, applied in order: two reflections make a
    rotation (DeltaProduct).

    q, k and v are projections of x, followed by a causal depthwise convolution over time and SiLU; q and k are
    normalised. The output is a projection of RMSNorm(o), with the norm taken per head.

    Parameters: `in_proj` computes q (N K), k (M N K) and v (M N V) concatenated, for N heads of widths K and V = H / N;
    `conv_weight` (their sum, conv_size); `beta_proj` (M N); `decay_proj` (N) and `decay_rate` (N); `gate_proj` (H);
    `norm`; `out_proj`. in_proj, gate_proj and out_proj have no bias. The state is S (B, N, K, V), or with a convolution
    the pair of S and the convolution's last inputs, (B, conv_size - 1, .).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    batch_first : bool
        Batches are (B, T, .). As in torch.nn they are (T, B, .) by default.
    device : torch.device, optional
        The device of the parameters.
    dtype : torch.dtype, optional
        float32 or float64. Under autocast the projections run in its dtype, the recurrence in the parameters'.
    num_heads : int
        N. Divides hidden_size.
    key_size : int, optional
        K, H / N by default.
    num_householder : int
        M.
    eigenvalues : {"signed", "positive"}
        "signed": beta from 0 to 2, eigenvalues from -1 to 1. "positive": beta from 0 to 1, eigenvalues from 0 to 1.
    decay : bool
        Multiply S by exp(-decay_rate softplus(decay_proj(x))) before each step (gated DeltaNet).
    output_gate : bool
        Multiply RMSNorm(o) by SiLU(gate_proj(x)), as gated DeltaNet does.
    conv_size : int
        Width of the convolution in steps, 0 for none.

    Raises
    ------
    TypeError, ValueError
        For an option of a wrong type or value.

    See Also
    --------
    LinearRNN : A layer whose state is a vector.
    fastiter.torch.delta_scan : The recurrence as a function.
    fastiter.torch.compat.fla : The same rules by the names of flash-linear-attention.

    References
    ----------
    Schlag et al., Linear transformers are secretly fast weight programmers, 2021, and Yang et al., Parallelizing linear
    transformers with the delta rule over sequence length, 2024: DeltaNet. Yang et al., Gated delta networks, 2025.
    Siems et al., DeltaProduct, 2025. Grazzi et al., Unlocking state-tracking in linear RNNs through negative
    eigenvalues, 2025: beta up to 2.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import DeltaNet
    >>> net = DeltaNet(5, 8, num_heads=2, num_householder=2)
    >>> x = torch.randn(10, 3, 5)
    >>> y, state = net(x[:9])
    >>> y, (memory, recent) = net.step(x[9], state)
    >>> y.shape, memory.shape
    (torch.Size([3, 8]), torch.Size([3, 2, 4, 4]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        num_heads: int = 1,
        key_size: int | None = None,
        num_householder: int = 1,
        eigenvalues: Literal["signed", "positive"] = "signed",
        decay: bool = False,
        output_gate: bool = False,
        conv_size: int = 4,
    ) -> None:
        super().__init__(input_size, hidden_size, batch_first)
        self.num_heads = check_heads(self, num_heads, hidden_size=hidden_size)
        self.value_size = hidden_size // num_heads
        self.key_size = self.value_size if key_size is None else check_count(self, "key_size", key_size)
        self.num_householder = check_count(self, "num_householder", num_householder)
        self.eigenvalues = check_choice(self, "eigenvalues", eigenvalues, ("signed", "positive"))
        self.conv_size = check_count(self, "conv_size", conv_size, minimum=0)
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        width = self._queries() + self._keys() + self._values()
        self.in_proj = nn.Linear(input_size, width, bias=False, **kind)
        self.beta_proj = nn.Linear(input_size, self.num_householder * num_heads, **kind)
        self.conv_weight = nn.Parameter(torch.empty(width, conv_size, **kind)) if conv_size else None
        decays, gated = check_bool(self, "decay", decay), check_bool(self, "output_gate", output_gate)
        self.decay_proj = nn.Linear(input_size, num_heads, **kind) if decays else None
        self.decay_rate = nn.Parameter(torch.empty(num_heads, **kind)) if decays else None
        self.gate_proj = nn.Linear(input_size, hidden_size, bias=False, **kind) if gated else None
        self.norm = nn.RMSNorm(self.value_size, eps=1e-5, **kind)
        self.out_proj = nn.Linear(hidden_size, hidden_size, bias=False, **kind)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize projections like torch.nn.Linear, the convolution like Conv1d, and small decays of each step."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]
        nn.init.zeros_(self.beta_proj.bias)
        if self.conv_weight is not None:
            bound = 1 / math.sqrt(self.conv_size)
            nn.init.uniform_(self.conv_weight, -bound, bound)
        if self.decay_proj is not None and self.decay_rate is not None:
            nn.init.uniform_(self.decay_rate, 1, 16)
            # softplus(bias) is log-uniform in 0.001 to 0.1
            time = torch.empty_like(self.decay_proj.bias).uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.decay_proj.bias.copy_(time.expm1().log())

    def extra_repr(self) -> str:
        """Return the sizes, and the options that differ from their defaults."""
        parts = [f"{self.input_size}, {self.hidden_size}, num_heads={self.num_heads}"]
        parts += ["batch_first=True"] if self.batch_first else []
        parts += [f"key_size={self.key_size}"] if self.key_size != self.value_size else []
        parts += [f"num_householder={self.num_householder}"] if self.num_householder != 1 else []
        parts += [f"eigenvalues={self.eigenvalues!r}"] if self.eigenvalues != "signed" else []
        parts += ["decay=True"] if self.decay_proj is not None else []
        parts += ["output_gate=True"] if self.gate_proj is not None else []
        parts += [f"conv_size={self.conv_size}"] if self.conv_size != 4 else []
        return ", ".join(parts)

    def _queries(self) -> int:
        return self.num_heads * self.key_size

    def _keys(self) -> int:
        return self.num_householder * self.num_heads * self.key_size

    def _values(self) -> int:
        return self.num_householder * self.num_heads * self.value_size

    def _like(self) -> Tensor:
        return self.out_proj.weight

    def _parts(self) -> Sequence[Part]:
        dtype = self._like().dtype
        memory = Part("memory", (self.num_heads, self.key_size, self.value_size), dtype)
        width = self._queries() + self._keys() + self._values()
        recent = Part("recent", (self.conv_size - 1, width), dtype)
        return (memory, recent) if self.conv_size else (memory,)

    def _run(
        self, x: Tensor, time: int, first: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor]]:
        memory, recent = (None, None) if first is None else (*first, None)[:2]
        qkv = self._cast(self.in_proj(x))
        if self.conv_weight is not None:
            qkv, recent = self._convolve(qkv, time, self.conv_weight, recent, lengths)
        q, k, v = self._rows(F.silu(qkv), time).split([self._queries(), self._keys(), self._values()], -1)
        heads, factors = self.num_heads, self.num_householder
        q = F.normalize(q.unflatten(-1, (heads, self.key_size)), dim=-1)
        k = F.normalize(k.unflatten(-1, (factors, heads, self.key_size)), dim=-1)
        v = v.unflatten(-1, (factors, heads, self.value_size))
        o, memory = delta_scan(q, k, v, self._beta(x, time), memory, decay=self._decay(x, time), lengths=lengths)
        y = self._rows(self.norm(o).flatten(-2), time)
        if self.gate_proj is not None:
            y = y * F.silu(self._cast(self.gate_proj(x)))
        return self.out_proj(y), (memory,) if recent is None else (memory, recent)

    def _beta(self, x: Tensor, time: int) -> Tensor:
        beta = self._cast(self.beta_proj(x)).sigmoid()
        beta = self._rows(beta, time).unflatten(-1, (self.num_householder, self.num_heads))
        return 2 * beta if self.eigenvalues == "signed" else beta

    def _decay(self, x: Tensor, time: int) -> Tensor | None:
        if self.decay_proj is None or self.decay_rate is None:
            return None
        return self._rows(torch.exp(-self.decay_rate * F.softplus(self._cast(self.decay_proj(x)))), time)
