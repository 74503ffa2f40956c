"""summary: formats, ranges, rounding errors and costs of the quantizers of a model."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ...._check import type_name
from .format_quantizers import GradientQuantizer
from .layers import QuantLayer
from .quantizer import Quantizer


class SummaryRow(NamedTuple):
    """One quantizer of a model.

    Attributes
    ----------
    name : str
        The layer.
    part : str
        The layer's rounded tensor.
    format : str
        The format.
    bits : int or float
        Bits that a number takes: those of its code and its share of the scale of a block.
    lowest, highest : float or None
        The range of the unrounded numbers; None if no input was given.
    sqnr : float or None
        10 log10 of the power of the numbers over that of the error, in dB; None if no input was given.
    operations, bit_operations : int or None
        In the rows of weights the number of multiplications of the layer, and this number times the bits of both
        factors; None in other rows.

    See Also
    --------
    summary : The function that returns all of them.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import QuantLinear, QuantPlan, summary
    >>> row = summary(QuantLinear(8, 4, plan=QuantPlan(weight="int4")), torch.ones(2, 8))[0]
    >>> row.part, row.format, row.bits, row.operations
    ('weight', 'int4', 4, 64)
    """

    name: str
    part: str
    format: str
    bits: float
    lowest: float | None
    highest: float | None
    sqnr: float | None
    operations: int | None
    bit_operations: int | None


class Summary(list[SummaryRow]):
    """The rows of :func:`summary`, a list; ``repr`` and ``print`` show a table.

    Parameters
    ----------
    iterable : iterable of SummaryRow
        The rows.

    See Also
    --------
    summary : The function that returns it.

    Examples
    --------
    >>> from fastiter.torch.nn import QuantLinear, QuantPlan, Summary, summary
    >>> model = QuantLinear(8, 4, plan=QuantPlan(weight="int4", input="int8"))
    >>> [row.bits for row in Summary(row for row in summary(model) if row.part == "weight")]
    [4]
    """

    @property
    def bit_operations(self) -> int:
        """The bit operations of all layers."""
        return sum(row.bit_operations or 0 for row in self)

    def __repr__(self) -> str:
        """Return the table, one line for each quantizer."""
        head = ("layer", "part", "format", "bits", "lowest", "highest", "SQNR / dB", "MAC", "bit operations")
        lines = [head, *(_cells(row) for row in self)]
        widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
        text = [
            "  ".join(
                cell.ljust(w) if k < 3 else cell.rjust(w) for k, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join(line.rstrip() for line in [*text, f"bit operations in all: {self.bit_operations:,}"])


def _cells(row: SummaryRow) -> tuple[str, ...]:
    def number(x: float | None, digits: str) -> str:
        return "-" if x is None else format(x, digits)

    return (
        *(row.name or "(model)", row.part, row.format, format(row.bits, "g")),
        *(number(row.lowest, ".4g"), number(row.highest, ".4g"), number(row.sqnr, ".1f")),
        *(number(row.operations, ","), number(row.bit_operations, ",")),
    )


#: (layer, weight) -> number of multiplications with the weight, and the name of the other factor
Calls: TypeAlias = dict[tuple[QuantLayer, str], tuple[int, str]]


class _Statistics:
    """Statistics of the numbers that passed a quantizer."""

    def __init__(self) -> None:
        self.lowest, self.highest, self.power, self.noise = math.inf, -math.inf, 0.0, 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        wide, near = x.detach().double(), y.detach().double()
        fine = torch.isfinite(wide) & torch.isfinite(near)
        wide, near = wide[fine], near[fine]
        if wide.numel():
            self.lowest = min(self.lowest, wide.min().item())
            self.highest = max(self.highest, wide.max().item())
            self.power += wide.square().sum().item()
            self.noise += (near - wide).square().sum().item()

    @property
    def sqnr(self) -> float | None:
        if self.lowest > self.highest:
            return None
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.power / self.noise) if self.power else -math.inf


def summary(model: nn.Module, *inputs: Any) -> Summary:
    """Return a row for each quantizer: bits, range, signal-to-noise ratio, and the number of bit operations.

    Parameters
    ----------
    model : torch.nn.Module
        Any model; layers without quantizers are left out.
    *inputs : Any
        Arguments of one call of the model, in eval mode and without gradients, which records statistics of its
        quantizers. Without inputs, only formats and bits are known.

    Returns
    -------
    rows : Summary
        A list of :class:`SummaryRow`, one for each quantizer in the order of the model; ``print`` shows a table. Bit
        operations are multiplications times the bits of weight and input, 32 if not rounded; a weight that is a sum of
        K powers of two counts as K bits.

    Raises
    ------
    TypeError
        For anything but a module.

    See Also
    --------
    quantize_model : Gives a model its quantizers.

    Examples
    --------
    >>> import torch
    >>> from fastiter.torch.nn import QuantLinear, QuantPlan, summary
    >>> model = torch.nn.Sequential(QuantLinear(8, 4, plan=QuantPlan(weight="int4", input="int8")))
    >>> print(summary(model, torch.ones(2, 8)))  # doctest: +ELLIPSIS
    layer  part    format  bits  ...
    0      weight  int4       4  ...  64           2,048
    0      input   int8       8  ...
    bit operations in all: 2,048
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"summary: model must be a torch.nn.Module, got {type_name(model)}")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantLayer)}
    statistics: dict[Quantizer, _Statistics] = {}
    calls: Calls = {}
    if inputs:
        _watch(model, layers, inputs, statistics, calls)
    rows = Summary()
    for name, layer in layers.items():
        for part, quantizer in layer.named_children():
            if isinstance(quantizer, Quantizer):
                rows.append(_row(name, layer, part.removesuffix("_quantizer"), quantizer, statistics, calls))
    for name, quantizer in model.named_modules():
        owner = name.rpartition(".")[0]
        if isinstance(quantizer, Quantizer) and owner not in layers:
            rows.append(_row(name, None, "alone", quantizer, statistics, calls))
    return rows


def _watch(
    model: nn.Module,
    layers: dict[str, QuantLayer],
    inputs: tuple[Any, ...],
    statistics: dict[Quantizer, _Statistics],
    calls: Calls,
) -> None:
    def passed(quantizer: Any, arguments: tuple[Any, ...], y: Any) -> None:
        statistics.setdefault(quantizer, _Statistics()).add(arguments[0], y)

    def called(layer: Any, arguments: tuple[Any, ...], y: Any) -> None:
        for part, (count, other) in layer.products(y).items():
            calls[layer, part] = calls.get((layer, part), (0, other))[0] + count, other

    handles = [m.register_forward_hook(passed) for m in model.modules() if isinstance(m, Quantizer)]
    handles += [layer.register_forward_hook(called) for layer in layers.values()]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training


def _scale_bits(quantizer: Quantizer) -> float:
    """Return a number's share of the scale of a block."""
    return max((fmt.storage_bits - fmt.bits for fmt in quantizer.formats), default=0)


def _row(
    name: str,
    layer: QuantLayer | None,
    part: str,
    quantizer: Quantizer,
    statistics: dict[Quantizer, _Statistics],
    calls: Calls,
) -> SummaryRow:
    own = statistics.get(quantizer, _Statistics())
    some = own.lowest <= own.highest and not isinstance(quantizer, GradientQuantizer)
    formats = [str(fmt) for fmt in quantizer.formats]
    text = " ".join(dict.fromkeys(formats)) if len(set(formats)) < 3 else f"{formats[0]} and {len(formats) - 1} more"
    operations = bits = None
    if layer is not None and (layer, part) in calls:
        operations, factor = calls[layer, part]
        other = getattr(layer, f"{factor}_quantizer")
        bits = (
            operations * (getattr(quantizer, "terms", None) or quantizer.bits) * (32 if other is None else other.bits)
        )
    return SummaryRow(
        *(name, part, text or "not known yet", quantizer.bits + _scale_bits(quantizer)),
        *(own.lowest if some else None, own.highest if some else None, own.sqnr if some else None),
        *(operations, bits),
    )
