"""A network as steps: its modules in the order of their calls, as torch.fx finds them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ... import Fixed
from ..functional import quantize
from ..nn.format_quantizers import GradientQuantizer
from ..nn.layers import QuantLayer
from ..nn.quantizer import Quantizer
from .formats import Step, Value, activation_format, check_exact, formats_of, refuse
from .layers import Builder, Call, add_call, check_kind

#: The modules that are equivalent to functions and methods
_FUNCTIONS: dict[Any, type[nn.Module]] = {
    torch.relu: nn.ReLU,
    F.relu: nn.ReLU,
    "relu": nn.ReLU,
    torch.flatten: nn.Flatten,
    "flatten": nn.Flatten,
}


class Network(NamedTuple):
    """The steps, the input and output arrays, and the rounded example with the network's output for it."""

    steps: list[Step]
    input: Value
    output: Value
    example: Tensor
    result: Tensor


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (QuantLayer, Quantizer)) or super().is_leaf_module(m, module_qualified_name)


class _Recorder(fx.Interpreter):
    """Runs the network and records the shapes of its nodes' outputs."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape[1:])
        return result


def network_of(model: nn.Module, example: Tensor, input_format: Fixed | None) -> Network:
    """Return the steps of a model in eval mode, and its output for the example rounded to the input format."""
    if isinstance(model, (QuantLayer, Quantizer)):
        model = nn.Sequential(model)
    with _in_eval(model):
        graph = _graph(model)
        _check(model, graph)
        (start,) = (node for node in graph.nodes if node.op == "placeholder")
        fmt = _input_format(model, start) if input_format is None else input_format
        x = quantize(example, fmt)
        recorder, rounded, returned = _run(model, graph, x)
        first = Value("network_input", fmt, tuple(example.shape[1:]))
        check_exact("input", first.largest, fmt.fraction, example.dtype)
        builder = Builder(example.dtype, rounded)
        values = {start: first}
        for node in graph.nodes:
            if node.op not in ("placeholder", "output"):
                values[node] = add_call(builder, _call(model, node, values, recorder.shapes))
    (last,) = (node.args[0] for node in graph.nodes if node.op == "output")
    if not isinstance(last, fx.Node):
        raise ValueError(f"export_hls: model must return one tensor, got {last}")
    return Network(builder.steps, first, values[last], x, returned)


@contextmanager
def _in_eval(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _graph(model: nn.Module) -> fx.Graph:
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise ValueError(f"export_hls: model must be one that torch.fx can trace, got {error}") from error
    inputs = [node.target for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ValueError(f"export_hls: model must have one input, got {len(inputs)}")
    return graph


def _input_format(model: nn.Module, start: fx.Node) -> Fixed:
    """Return the format to which all users of the input round it."""
    formats: dict[Fixed | None, str] = {}
    waiting = [start]
    while waiting:
        node = waiting.pop()
        for user in node.users:
            if user.op == "output":
                formats[None] = "output"
                continue
            module = model.get_submodule(str(user.target)) if user.op == "call_module" else _module(user)
            if isinstance(module, (nn.Flatten, nn.Identity, nn.Dropout, GradientQuantizer)):
                waiting.append(user)
                continue
            quantizer: Any = module if isinstance(module, Quantizer) else getattr(module, "input_quantizer", None)
            if len(user.args) > 1 and user.args[1] is node:
                quantizer = getattr(module, "other_quantizer", None)
            formats[None if quantizer is None else activation_format(_label(user), quantizer)] = _label(user)
    if len(formats) == 1 and None not in formats:
        return next(fmt for fmt in formats if fmt is not None)
    got = ", ".join(f"{fmt or 'none'} of {name!r}" for fmt, name in formats.items())
    raise ValueError(f"export_hls: input must be given if no one format rounds the model's input, got {got}")


def _check(model: nn.Module, graph: fx.Graph) -> None:
    """Check the modules and formats before a run, which would initialize formats that are still unset."""
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else _module(node)
        check_kind(_label(node), module)
        if isinstance(module, Quantizer) and not isinstance(module, GradientQuantizer):
            activation_format(_label(node), module)
        for what in ("weight", "bias", "input", "other", "output"):
            quantizer = getattr(module, f"{what}_quantizer", None)
            if isinstance(quantizer, Quantizer):
                (formats_of if what in ("weight", "bias") else activation_format)(_label(node), quantizer)


def _run(model: nn.Module, graph: fx.Graph, x: Tensor) -> tuple[_Recorder, dict[nn.Module, Tensor], Tensor]:
    """Run the network; record the outputs of the parameters' quantizers."""
    rounded: dict[nn.Module, Tensor] = {}
    recorder = _Recorder(model, graph)

    def passed(quantizer: nn.Module, inputs: Any, y: Tensor) -> None:
        rounded[quantizer] = y.detach().clone()

    with ExitStack() as stack:
        for module in model.modules():
            for what in ("weight", "bias"):
                quantizer = getattr(module, f"{what}_quantizer", None)
                if isinstance(quantizer, Quantizer):
                    stack.enter_context(_Hook(quantizer.register_forward_hook(passed)))
        returned = recorder.run(x)
    return recorder, rounded, returned


class _Hook:
    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def _label(node: fx.Node) -> str:
    return str(node.target) if node.op in ("call_module", "call_method") else node.name


def _module(node: fx.Node) -> nn.Module:
    """Return the module that is equivalent to a function call."""
    kind = _FUNCTIONS.get(node.target)
    if kind is nn.ReLU and len(node.args) == 1 and not node.kwargs.get("inplace"):
        return nn.ReLU()
    if kind is nn.Flatten:
        options: dict[str, Any] = {"start_dim": 0}
        options |= dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
        return nn.Flatten(options["start_dim"], options.get("end_dim", -1))
    hint = " (QuantAdd adds)" if "add" in node.name else ""
    refuse(_label(node), f"be a call of a module{hint}, or of relu or flatten", f"{node.op} {node.target}")


def _call(model: nn.Module, node: fx.Node, values: dict[Any, Value], shapes: dict[fx.Node, tuple[int, ...]]) -> Call:
    is_module = node.op == "call_module"
    module = model.get_submodule(str(node.target)) if is_module else _module(node)
    inputs = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]
    # The number keeps a layer "a_input" apart from the input of a layer "a".
    name = f"layer{len(values)}_{node.name.lstrip('_')}"
    for value in inputs:
        if value not in values or math.prod(values[value].shape) == 0:
            refuse(_label(node), "be called with arrays that are not empty", str(value))
    return Call(name, _label(node), module, tuple(values[value] for value in inputs), shapes.get(node, ()))
