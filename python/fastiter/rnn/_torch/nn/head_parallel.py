"""Recurrent layers whose heads are sharded over the ranks of a DeviceMesh: a style for torch's parallelize_module."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ...._check import check_flag
from ...._torch.distributed.collectives import Ranks
from ...._torch.distributed.dtensors import moved
from ...._torch.modules.derived_class import derive
from .base import Recurrent
from .checks import CELLS, OPTIONS, as_torch_takes_it, check_forward, check_weights, checked_options, module_name
from .modules import GRU, LSTM, RNN, sLSTM

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import ParallelStyle as Style
else:
    Style = object  # torch.distributed.tensor takes a second to import: HeadParallel is registered on first use


class HeadParallel(Style):
    """Shard the heads of an LSTM, GRU, RNN or sLSTM over the ranks of a mesh, for torch's parallelize_module.

    Each rank holds the weights of its own heads and computes only these. The input is the same on every rank, and the
    output is sharded by features, as with ColwiseParallel for a linear layer: RowwiseParallel can follow without
    communication. Between the layers of a stack, and between the directions of a bidirectional layer, features are
    gathered.

    Parameters become DTensors that are views of the module's own by gates, heads and units, (G, N, D, I) for
    `weight_ih`, (G, N, D, D) for `weight_hh` and (G, N, D) for biases, with placement Shard(1).
    `load_state_dict` also accepts tensors in the shapes of the unsharded module.

    Parameters
    ----------
    input_layouts : Placement, optional
        The placement of an input that is a plain tensor, Replicate() by default. The input is redistributed to
        Replicate().
    output_layouts : Placement, optional
        The placement of the output, Shard(-1) by default.
    use_local_output : bool
        Whether output and states are plain tensors, the shards of this rank, instead of DTensors. States are always
        sharded by features, including those passed to forward.

    Raises
    ------
    TypeError
        If a layout is not a Placement, or use_local_output not a bool; from parallelize_module, for another class of
        module.
    ValueError
        From parallelize_module on every rank, for a single head, a number of heads that is not a multiple of the number
        of ranks, dropout, or a module that differs between ranks.

    See Also
    --------
    fastiter.torch.nn.LSTM : One of the modules.
    fastiter.torch.lstm : The function, which also accepts DTensors.

    Examples
    --------
    >>> import torch, fastiter.torch
    >>> from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
    >>> def build(mesh):  # on each rank; the mesh has one axis
    ...     model = torch.nn.ModuleDict({"rnn": fastiter.torch.nn.LSTM(64, 128, num_heads=8)})
    ...     model["out"] = torch.nn.Linear(128, 10)
    ...     plan = {"rnn": fastiter.torch.distributed.HeadParallel(), "out": RowwiseParallel()}
    ...     return parallelize_module(model, mesh, plan)
    """

    src_data_rank: int | None = 0

    def __init__(self, *, input_layouts: Any = None, output_layouts: Any = None, use_local_output: bool = True) -> None:
        from torch.distributed.tensor import Placement, Replicate, Shard
        from torch.distributed.tensor.parallel import ParallelStyle

        ParallelStyle.register(HeadParallel)
        inputs = {"input_layouts": input_layouts, "output_layouts": output_layouts}
        for name, layout in inputs.items():
            if layout is not None and not isinstance(layout, Placement):
                raise TypeError(f"HeadParallel: {name} must be a Placement, got {type(layout).__qualname__}")
        check_flag("HeadParallel", "use_local_output", use_local_output)
        self.input_layouts = Replicate() if input_layouts is None else input_layouts
        self.output_layouts = Shard(-1) if output_layouts is None else output_layouts
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        from torch.distributed.tensor import Shard, distribute_tensor

        if device_mesh.ndim != 1:
            raise ValueError(f"HeadParallel: device_mesh must have 1 axis, got one with {device_mesh.ndim}")
        ranks = Ranks("HeadParallel", device_mesh)
        failure: Exception | None = None
        arguments: Mapping[str, str] = {}
        try:
            _check(module, ranks.size)
            arguments = _description(module, self)
        except (TypeError, ValueError) as error:
            failure = error
        ranks.agree(arguments, 0, False, failure)
        assert isinstance(module, Recurrent)
        blocks = (CELLS[module.mode].gates, module.num_heads, module.hidden_size // module.num_heads)
        for name, weight in list(module.named_parameters(recurse=False)):
            by_head = weight.detach().unflatten(0, blocks)
            sharded = distribute_tensor(by_head, device_mesh, [Shard(1)], src_data_rank=self.src_data_rank)
            setattr(module, name, nn.Parameter(sharded, requires_grad=weight.requires_grad))
        module.register_load_state_dict_pre_hook(_take_whole)
        module.__dict__["_style"] = (self.input_layouts, self.output_layouts, self.use_local_output)
        divided: nn.Module = module
        divided.__class__ = _parallel(type(module))
        return divided


def _check(module: nn.Module, ranks: int) -> None:
    if not isinstance(module, Recurrent):
        expected = "an LSTM, GRU, RNN or sLSTM of fastiter.torch.nn"
        raise TypeError(f"HeadParallel: module must be {expected}, got {type(module).__qualname__}")
    if "_style" in module.__dict__:
        raise ValueError(f"HeadParallel: module must not be divided yet, got {module_name(module)} with DTensors")
    check_forward("HeadParallel", module)
    check_weights("HeadParallel", module)
    checked_options(module)
    name, heads = module_name(module), module.num_heads
    if heads == 1:
        raise ValueError(f"HeadParallel: num_heads of {name} must be more than 1, got 1")
    if heads % ranks:
        raise ValueError(f"HeadParallel: num_heads of {name} must be a multiple of {ranks}, the ranks, got {heads}")
    if module.dropout > 0:
        why = "as ranks draw other numbers"
        raise ValueError(f"HeadParallel: dropout of {name} must be 0, {why}, got {module.dropout}")


def _description(module: Any, style: HeadParallel) -> dict[str, str]:
    """Return the properties that must be the same on every rank."""
    result = {"module": f"{module_name(module)}({module.extra_repr()})"}
    result |= {name: f"{tuple(x.shape)} {x.dtype}" for name, x in module.named_parameters(recurse=False)}
    result |= {name: str(getattr(style, name)) for name in ("input_layouts", "output_layouts", "use_local_output")}
    return result


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _parallel(of: type[nn.Module]) -> type[nn.Module]:
    """Return the class derived from ``of`` with the forward for sharded heads."""
    if of not in _CLASSES:
        _CLASSES[of] = derive(of, (), {"forward": _forward, "step": _refuse_step}, _parallel)
    return _CLASSES[of]


def _take_whole(module: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Shard tensors that have the shapes of the unsharded module, before they are loaded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for name, weight in module.named_parameters(recurse=False):
        x = state_dict.get(prefix + name)
        if not isinstance(x, Tensor) or isinstance(x, DTensor) or not isinstance(weight, DTensor):
            continue
        if x.shape == weight.shape or x.shape == (weight.shape[:3].numel(), *weight.shape[3:]):
            whole = x.detach().to(weight.device).view(weight.shape)
            state_dict[prefix + name] = distribute_tensor(
                whole, weight.device_mesh, weight.placements, src_data_rank=None
            )


def _refuse_step(module: Any, input: Any, hx: Any = None) -> Any:
    raise TypeError(f"{module_name(module)}.step: module must not be divided by HeadParallel; call forward instead")


def _forward(
    module: Any,
    input: Any,
    hx: Any = None,
    *,
    reset: Tensor | None = None,
    lengths: Any = None,
    cu_seqlens: Any = None,
) -> tuple[Any, Any]:
    """Return the output and the final states as the module does; see :class:`HeadParallel` for the placements."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    name, (into, out_of, is_local) = module_name(module), module.__dict__["_style"]
    weights = [[getattr(module, one) for one in names] for names in module._all_weights]
    mesh = weights[0][0].device_mesh
    if isinstance(input, PackedSequence) or not isinstance(input, Tensor):
        expected = "a Tensor if heads are divided (lengths takes rows of several lengths)"
        raise TypeError(f"{name}: input must be {expected}, got a {type(input).__qualname__}")
    x: Any = input if isinstance(input, DTensor) else DTensor.from_local(input, mesh, [into])
    states, directions = _local_states(module, hx), 2 if module.bidirectional else 1
    finals: list[Any] = []
    for first in range(0, len(weights), directions):
        local = _local_layer(module, first == 0, mesh.size())
        parameters = {
            one: moved(name, weight, [Shard(1)], [Shard(1)]).flatten(0, 2)
            for names, own in zip(local._all_weights, weights[first : first + directions], strict=True)
            for one, weight in zip(names, own, strict=True)
        }
        start = None if states is None else tuple([s[first : first + directions] for s in states])
        options = {"reset": reset, "lengths": lengths, "cu_seqlens": cu_seqlens}
        inputs = (moved(name, x, [Replicate()], [Partial()]), start)  # each rank has the gradient from its own heads
        h, last = torch.func.functional_call(local, parameters, inputs, options)
        finals.append(last if isinstance(last, tuple) else (last,))
        by_feature = Shard(h.dim() - 1)
        if is_local and first + directions == len(weights) and directions == 1 and out_of in (by_feature, Shard(-1)):
            x = h  # FSDP2 warns about views of results, which to_local creates
        else:
            x = _gathered([DTensor.from_local(one, mesh, [by_feature]) for one in h.chunk(directions, -1)])
    whole = tuple([torch.cat(s) if len(s) > 1 else s[0] for s in zip(*finals, strict=True)])
    if not is_local:
        whole = tuple([DTensor.from_local(s, mesh, [Shard(s.dim() - 1)]) for s in whole])
    if isinstance(x, DTensor):
        x = x.redistribute(mesh, [out_of])
        x = x.to_local() if is_local else x
    return x, whole if len(whole) > 1 else whole[0]


def _gathered(parts: list[Any]) -> Any:
    """Return one direction unchanged, and the features of two directions gathered and concatenated on every rank."""
    from torch.distributed.tensor import Replicate

    if len(parts) == 1:
        return parts[0]
    return torch.cat([x.redistribute(x.device_mesh, [Replicate()]) for x in parts], -1)


def _local_states(module: Any, hx: Any) -> tuple[Tensor, ...] | None:
    """Return this rank's features of the initial states; a plain tensor has only these."""
    from torch.distributed.tensor import DTensor, Shard

    if hx is None:
        return None
    parts = as_torch_takes_it(module, hx)
    states = []
    for s in parts if isinstance(parts, (tuple, list)) else (parts,):
        if isinstance(s, DTensor):
            s = moved(module_name(module), s, [Shard(s.dim() - 1)], [Shard(s.dim() - 1)])
        states.append(s)
    return tuple(states)


def _local_layer(module: Any, is_first: bool, ranks: int) -> Any:
    """Return a layer with a rank's number of heads and no memory of its own: its weights are passed at each call."""
    of = next(one for one in type(module).__mro__ if one in (LSTM, GRU, RNN, sLSTM))
    options: dict[str, Any] = {name: getattr(module, name) for name in OPTIONS}
    options |= {name: getattr(module, name) for name in ("bias", "batch_first", "bidirectional")}
    if module.mode.startswith("RNN"):
        options["nonlinearity"] = module.mode.removeprefix("RNN_").lower()
    heads = module.num_heads // ranks
    features = module.input_size if is_first else module.hidden_size * (2 if module.bidirectional else 1)
    return _layer(of, features, module.hidden_size // ranks, heads, module.weight_ih_l0.dtype, tuple(options.items()))


@functools.lru_cache(maxsize=256)
def _layer(
    of: Any, features: int, width: int, heads: int, dtype: torch.dtype, options: tuple[tuple[str, Any], ...]
) -> Any:
    return of(features, width, num_heads=heads, dtype=dtype, device="meta", **dict(options))
