"""The report of a decoder: its layers, their formats, and the bytes that a token reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .._pack import PackedMatrix
from ..plan import Experts, Matrix, Plan, Route
from .weights import matrices_of


class DecoderLayer(NamedTuple):
    """A matrix of a decoder.

    Attributes
    ----------
    name : str
        The model's parameter that it is, or is a part of.
    format : str
        Its format.
    rows, columns : int
        Outputs and inputs.
    bytes : int
        Bytes of its codes and scales.

    See Also
    --------
    DecoderReport : Has one for each matrix.

    Examples
    --------
    >>> from fastiter.torch.decode import DecoderLayer
    >>> layer = DecoderLayer("lm_head.weight", "int8", 1000, 64, 68000)
    >>> 8 * layer.bytes / (layer.rows * layer.columns)
    8.5
    """

    name: str
    format: str
    rows: int
    columns: int
    bytes: int


@dataclass(frozen=True)
class DecoderReport:
    """The report of a decoder; as a string, a table with a line for each format.

    Attributes
    ----------
    layers : tuple of DecoderLayer
        The matrices that are multiplied, in the order of a step, then those that are only looked up.
    bytes : int
        Bytes of all packed weights.
    bytes_per_token : int
        Bytes of weights and recurrent states that a step reads: of the experts, only the chosen ones, and none of a
        table that is only looked up. Keys and values come on top.

    See Also
    --------
    Decoder : Its ``report`` is one.

    Examples
    --------
    >>> import transformers
    >>> from fastiter.torch import Decoder
    >>> config = transformers.MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1)
    >>> report = Decoder(transformers.MambaForCausalLM(config).eval(), weights="int8").report
    >>> report.layers[0][:4]
    ('backbone.layers.0.mixer.in_proj.weight', 'int8', 128, 32)
    """

    layers: tuple[DecoderLayer, ...]
    bytes: int
    bytes_per_token: int

    def __str__(self) -> str:
        lines = [f"{'format':8}{'layers':>8}{'weights':>16}{'MB':>10}"]
        for fmt in dict.fromkeys(layer.format for layer in self.layers):
            of = [layer for layer in self.layers if layer.format == fmt]
            weights = sum(layer.rows * layer.columns for layer in of)
            lines.append(f"{fmt:8}{len(of):8}{weights:16,}{sum(layer.bytes for layer in of) / 1e6:10.1f}")
        lines.append(f"{self.bytes_per_token / 1e6:.1f} MB of weights and states are read for each token")
        return "\n".join(lines)


def report_of(plan: Plan, matrices: Mapping[Matrix, PackedMatrix], number_size: int) -> DecoderReport:
    """Return the report of a plan with its weights; ``number_size``: bytes of a number of a state."""
    layers = tuple(DecoderLayer(m.name, p.format, p.N, p.K, p.nbytes) for m, p in matrices.items())
    read = float(sum(matrices[m].nbytes for m in {m for m, is_product in matrices_of(plan) if is_product}))
    for step in plan.steps:
        if isinstance(step, Experts):
            of = [*(step.gate or ()), *step.up, *step.down]
            read -= sum(matrices[m].nbytes for m in of) * (1 - chosen_experts(plan, step) / len(step.up))
    for state in plan.states:
        if not state.grows:
            numbers = 1
            for size in state.shape:
                numbers *= size
            read += numbers * number_size
    return DecoderReport(layers, sum(layer.bytes for layer in layers), round(read))


def chosen_experts(plan: Plan, step: Experts) -> int:
    """Return how many experts a token uses: all, unless a step chooses among them."""
    routes = (x.top_k for x in plan.steps if isinstance(x, Route) and x.out.name == step.routes.name)
    return next(routes, len(step.up))
