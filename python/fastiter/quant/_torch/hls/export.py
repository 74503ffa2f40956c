"""Export of networks of fixed-point layers as C++ for high-level synthesis, with a testbench for bit equality."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...._check import type_name
from ...._torch.ops import check_tensors
from ... import Fixed
from ..._check import check_format
from ..arguments import FormatLike
from .code import describe, write
from .graph import network_of

__all__ = ["export_hls"]


def export_hls(
    model: nn.Module, directory: str | os.PathLike[str], example: Tensor, *, input: FormatLike | None = None
) -> dict[str, Any]:
    """Write codes_out = network(codes_in), a network of fixed-point layers in eval mode, as C++ for HLS.

    The network's numbers are integers times powers of two, and so are all products and sums between two roundings: they
    are exact in C++, and the export is refused if float32 or float64 might not hold one exactly. The C++ therefore
    returns the network's numbers bit for bit. The testbench runs it on the example and compares.

    Parameters
    ----------
    model : torch.nn.Module
        A model that torch.fx can trace, with one input and one output: QuantLinear, QuantConv2d, QuantBatchNorm1d and
        2d, QuantAffine, QuantAdd, quantizers, ReLU, Flatten, MaxPool2d, Dropout, Identity, and AvgPool2d and
        AdaptiveAvgPool2d(1) over a power of two. Weights, biases and accumulators are in fixed point, or integers with
        power-of-two scales; weights may also be powers of two and their sums. Only parameters may have a format for
        each channel.
    directory : str or path
        Directory of the files, created if necessary: ``parameters.hpp`` (types, and weights as integers),
        ``model.hpp``, ``model.cpp``, ``fixed.hpp`` (ap_fixed for a plain compiler), ``testbench.cpp``, ``model.json``,
        ``inputs.txt`` and ``expected.txt`` (codes of the example and of the network's output, one sample per line).
    example : Tensor (B, ...), float32 or float64
        Samples, in the model's dtype.
    input : Fixed or str, optional
        The format to which the network's input is rounded. By default the format to which the first layer rounds its
        input.

    Returns
    -------
    dict
        The content of ``model.json``: the input, the output, and each step with its formats and shapes.

    Raises
    ------
    TypeError, ValueError
        For a wrong model, example or input format, and for a layer that cannot be exported, with its name.

    See Also
    --------
    fastiter.torch.nn.quantize_model : Makes fixed-point layers of torch.nn's.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from fastiter.torch.quant import export_hls
    >>> from fastiter.torch.nn import QuantLinear, QuantPlan
    >>> _ = torch.manual_seed(0)
    >>> plan = QuantPlan(*["fixed<8,2,RND_CONV,SAT>"] * 4)
    >>> model = torch.nn.Sequential(QuantLinear(4, 3, plan=plan), torch.nn.ReLU())
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     steps = export_hls(model, directory, torch.randn(5, 4))["steps"]
    >>> [step["kind"] for step in steps], steps[1]["sum"]
    (['cast', 'linear', 'cast', 'relu'], 'fixed<15,3>')
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"export_hls: model must be a torch.nn.Module, got {type_name(model)}")
    if not isinstance(directory, (str, os.PathLike)):
        raise TypeError(f"export_hls: directory must be a str or a path, got {type_name(directory)}")
    check_tensors("export_hls", ("example",), (example,), (torch.float32, torch.float64))
    if example.dim() < 2 or example.numel() == 0:
        got = f"shape {tuple(example.shape)}"
        raise ValueError(f"export_hls: example must be samples of shape (B, ...), B >= 1, got {got}")
    fmt = None if input is None else check_format("export_hls", input, "input")
    if fmt is not None and (not isinstance(fmt, Fixed) or fmt.stochastic):
        raise ValueError(f"export_hls: input must be a Fixed without random numbers, got {fmt}")
    network = network_of(model, example.detach(), fmt)
    if not network.steps:
        raise ValueError(f"export_hls: model must have layers, got {type(model).__name__}")
    description = describe(network)
    write(network, description, Path(directory))
    return description
