"""Export of LSTM, GRU and RNN to ONNX's operators of these names; decomposition of programs for torch's exporter."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..._check import type_name
from .nn.checks import CELLS, Layer, check_forward, check_weights, heads_of, layers_of
from .nn.layer import Parameters

__all__ = ["decompose", "export"]

OPSET, IR = 18, 9  # supported by runtimes since 2023


class _Operator(NamedTuple):
    """The operator's name, the indices of fastiter's gates in the operator's gate order, and its attributes."""

    name: str
    order: tuple[int, ...]
    attributes: dict[str, Any]


_OPERATORS = {
    "LSTM": _Operator("LSTM", (0, 3, 1, 2), {}),  # i, o, f, c
    "GRU": _Operator("GRU", (1, 0, 2), {"linear_before_reset": 1}),  # z, r, h
    "RNN_TANH": _Operator("RNN", (0,), {"activation": "Tanh"}),
    "RNN_RELU": _Operator("RNN", (0,), {"activation": "Relu"}),
}
_TYPES = {torch.float32: "FLOAT", torch.float64: "DOUBLE"}


def export(module: nn.Module, path: str | os.PathLike[str] | None = None, *, with_state: bool = False) -> Any:
    """Export output, states = module(input), for an LSTM, GRU or RNN, with ONNX's operators.

    Each layer is one node for both directions. Inputs and outputs have the module's names and layouts: ``input`` (T, B,
    I), or (B, T, I) if batch_first, ``output``, ``h_n`` and, for an LSTM, ``c_n``; T and B are dynamic. Dropout is
    omitted. Heads become a block diagonal matrix. A projection becomes a product after the operator, whose recurrent
    weights are W_hh W_hr.

    Parameters
    ----------
    module : LSTM, GRU or RNN
        A module of fastiter.torch.nn or torch.nn, without clip_state, in float32 or float64; or in bfloat16, which is
        exported with float32 weights and arithmetic, as runtimes do not support these operators in bfloat16.
    path : str or path, optional
        Path of the file to write.
    with_state : bool
        Whether the initial state is an input, ``h_0`` (layers * directions, B, H) and, for an LSTM, ``c_0``. Otherwise
        it is zero. Not with proj_size.

    Returns
    -------
    onnx.ModelProto
        The checked model.

    Raises
    ------
    TypeError, ValueError
        For another module (ONNX has no sLSTM) or dtype; for an initial state with proj_size; for clip_state.
    ImportError
        If the package onnx is not installed.

    See Also
    --------
    decompose : Export of whole models by torch.onnx.export.

    Examples
    --------
    >>> from fastiter.torch import onnx
    >>> from fastiter.torch.nn import GRU
    >>> graph = onnx.export(GRU(5, 8, num_layers=2)).graph
    >>> [node.op_type for node in graph.node if node.op_type == "GRU"], [x.name for x in graph.output]
    (['GRU', 'GRU'], ['output', 'h_n'])
    """
    if not isinstance(module, nn.RNNBase) or module.mode not in _OPERATORS:
        raise TypeError(f"onnx.export: module must be an LSTM, GRU or RNN, got {type_name(module)}")
    check_forward("onnx.export", module)
    if module._forward_pre_hooks:
        check_weights("onnx.export", module)
    if not isinstance(with_state, bool):
        raise TypeError(f"onnx.export: with_state must be a bool, got {type_name(with_state)}")
    if with_state and module.proj_size > 0:
        raise ValueError(f"onnx.export: with_state must be False with proj_size = {module.proj_size}, got True")
    bound = getattr(module, "clip_state", None)
    if bound is not None:
        raise ValueError(f"onnx.export: clip_state must be None, as ONNX's operators clip the gates, got {bound}")
    with torch.no_grad():
        layers = layers_of(module, CELLS[module.mode])
        if layers[0].parameters.w_ih.dtype == torch.bfloat16:
            layers = [Layer(Parameters(*map(_float, one.parameters)), _float(one.w_hr)) for one in layers]
    dtype = layers[0].parameters.w_ih.dtype
    if dtype not in _TYPES:
        raise TypeError(f"onnx.export: module must have float32, float64 or bfloat16 parameters, got {dtype}")
    import onnx

    with torch.no_grad():
        graph = _Graph(onnx, module, layers, with_state).build()
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], producer_name="fastiter")
    model.ir_version = IR
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        onnx.save(model, path)
    return model


def decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Decompose fastiter's layers in a program of torch.export to torch's operations, for torch.onnx.export.

    Supports all cells and options of the modules: heads, directions, projections, initial states, ``lengths``,
    ``reset`` and ``clip_state``; not packed sequences. The recurrence becomes a loop, ONNX's Scan.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        The program of a model with LSTM, GRU, RNN or sLSTM layers, or the functions of these names. Sizes may be
        dynamic.

    Returns
    -------
    torch.export.ExportedProgram
        The same program without fastiter's ops; the argument is unchanged.

    Raises
    ------
    TypeError, ValueError
        For an argument that is not a program; for packed sequences.

    See Also
    --------
    export : Export of one layer as a node of ONNX's own LSTM, GRU or RNN.

    Examples
    --------
    >>> import warnings
    >>> import torch
    >>> from fastiter.torch import onnx
    >>> from fastiter.torch.nn import sLSTM
    >>> program = torch.export.export(sLSTM(4, 6).eval(), (torch.randn(5, 2, 4),))
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # torch's, about its own functions
    ...     program = onnx.decompose(program)  # torch.onnx.export(program) writes the file
    >>> any("fastiter" in str(node.target) for node in program.graph.nodes)
    False
    """
    if not isinstance(program, torch.export.ExportedProgram):
        raise TypeError(f"onnx.decompose: program must be a torch.export.ExportedProgram, got {type_name(program)}")
    from .onnx_program import decomposed

    return decomposed(program)


def _float(weight: Any) -> Any:
    return None if weight is None else weight.float()


class _Graph:
    """Builder of the ONNX graph. Inside the graph everything is time-major."""

    def __init__(self, onnx: Any, module: nn.RNNBase, layers: list[Layer], with_state: bool) -> None:
        self.onnx, self.module, self.layers, self.with_state = onnx, module, layers, with_state
        self.type = getattr(onnx.TensorProto, _TYPES[layers[0].parameters.w_ih.dtype])
        self.operator = _OPERATORS[module.mode]
        self.directions = 2 if module.bidirectional else 1
        self.states = ("h", "c") if module.mode == "LSTM" else ("h",)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def build(self) -> Any:
        module = self.module
        x = self.node("Transpose", ["input"], perm=[1, 0, 2]) if module.batch_first else "input"
        firsts = [self.split(f"{name}_0") if self.with_state else None for name in self.states]
        lasts: list[list[str]] = [[] for _ in self.states]
        for k in range(module.num_layers):
            both = self.layers[k * self.directions : (k + 1) * self.directions]
            x, *last = self.layer(k, both, x, [None if first is None else first[k] for first in firsts])
            for parts, one in zip(lasts, last, strict=True):
                parts.append(one)
        if module.batch_first:
            x = self.node("Transpose", [x], perm=[1, 0, 2])
        self.node("Identity", [x], ["output"])
        for name, parts in zip(self.states, lasts, strict=True):
            self.node("Concat", parts, [f"{name}_n"], axis=0)
        return self.onnx.helper.make_graph(self.nodes, "fastiter", self.inputs(), self.outputs(), self.constants)

    def layer(self, k: int, both: list[Layer], x: str, firsts: list[str | None]) -> tuple[str, ...]:
        """Add both directions of a layer; return its output (T, B, .) and final states (directions, B, .)."""
        weights = [self.constant(f"{name}_{k}", value) for name, value in self.weights(both).items()]
        inputs = [x, *weights, *[""] * (3 - len(weights)), "", *(first or "" for first in firsts)]
        created = [f"Y_{k}", *(f"Y_{name}_{k}" for name in self.states)]
        attributes = dict(self.operator.attributes)
        activation = attributes.pop("activation", None)
        if activation is not None:
            attributes["activations"] = [activation] * self.directions
        direction = "bidirectional" if self.directions == 2 else "forward"
        width = self.module.hidden_size
        self.node(self.operator.name, inputs, created, hidden_size=width, direction=direction, **attributes)
        y, *last = created
        if self.module.proj_size > 0:
            w_hr = torch.stack([one.w_hr.t() for one in both if one.w_hr is not None])  # (directions, H, P)
            per_step = self.constant(f"P_{k}", w_hr)
            y, last[0] = (self.node("MatMul", [part, per_step]) for part in (y, last[0]))
        y = self.node("Transpose", [y], perm=[0, 2, 1, 3])
        shape = self.constant(f"shape_{k}", torch.tensor([0, 0, -1], device="cpu"))
        return self.node("Reshape", [y, shape]), *last

    def weights(self, both: list[Layer]) -> dict[str, Tensor]:
        """Return W (directions, G H, I), R (directions, G H, H) and, if there are biases, B (directions, 2 G H)."""
        parameters = [one.parameters for one in both]
        result = {"W": torch.stack([self.ordered(p.w_ih) for p in parameters])}
        recurrent = [p.w_hh if one.w_hr is None else p.w_hh @ one.w_hr for p, one in zip(parameters, both, strict=True)]
        result["R"] = torch.stack([self.ordered(self.dense(r)) for r in recurrent])
        biases = [(p.b_ih, p.b_hh) for p in parameters if p.b_ih is not None and p.b_hh is not None]
        if biases:
            result["B"] = torch.stack([torch.cat([self.ordered(b) for b in pair]) for pair in biases])
        return result

    def ordered(self, weight: Tensor) -> Tensor:
        """Put the gates along the first axis into the operator's order."""
        return weight.unflatten(0, (len(self.operator.order), -1))[list(self.operator.order)].flatten(0, 1)

    def dense(self, w_hh: Tensor) -> Tensor:
        """Return (G H, H / heads) as (G H, H), with the heads as diagonal blocks of each gate."""
        heads, gates = heads_of(self.module), len(self.operator.order)
        blocks = w_hh.view(gates, heads, -1, w_hh.shape[1])
        return torch.cat([torch.block_diag(*gate) for gate in blocks])

    def split(self, name: str) -> list[str]:
        """Add a node that splits the states (layers * directions, B, H) by layer."""
        parts = [f"{name}_{k}" for k in range(self.module.num_layers)]
        self.node("Split", [name], parts, axis=0, num_outputs=len(parts))
        return parts

    def node(self, kind: str, inputs: list[str], created: list[str] | None = None, **attributes: Any) -> str:
        created = created or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, created, **attributes))
        return created[0]

    def constant(self, name: str, value: Tensor) -> str:
        array = value.detach().cpu().contiguous().numpy()
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def value(self, name: str, shape: list[str | int]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self.type, shape)

    def steps(self, name: str, features: int) -> Any:
        return self.value(name, ["B", "T", features] if self.module.batch_first else ["T", "B", features])

    def inputs(self) -> list[Any]:
        rows, width = self.module.num_layers * self.directions, self.module.hidden_size
        states = [self.value(f"{name}_0", [rows, "B", width]) for name in self.states] if self.with_state else []
        return [self.steps("input", self.module.input_size), *states]

    def outputs(self) -> list[Any]:
        module = self.module
        rows, out = module.num_layers * self.directions, module.proj_size or module.hidden_size
        widths = (out, module.hidden_size)
        states = [self.value(f"{name}_n", [rows, "B", w]) for name, w in zip(self.states, widths, strict=False)]
        return [self.steps("output", self.directions * out), *states]
