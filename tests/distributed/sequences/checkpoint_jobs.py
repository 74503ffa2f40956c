"""Checkpoints by torch.distributed.checkpoint that are saved by some number of ranks and loaded by another."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import parallelize_module

import fastiter.torch as ft
from fastiter.torch.distributed import HeadParallel

WIDTH, HEADS = 24, 12  # divisible among 1, 2, 3 and 4 ranks


def recurrent(seed: int) -> nn.ModuleDict:
    """Return the modules whose heads can be divided."""
    torch.manual_seed(seed)
    make = {name: getattr(ft.nn, name) for name in ("LSTM", "GRU", "RNN", "sLSTM")}
    return nn.ModuleDict({name: kind(5, WIDTH, num_heads=HEADS) for name, kind in make.items()})


def others(seed: int) -> nn.ModuleDict:
    """Return further modules with parameters of many shapes: FSDP2 shards their first axis, evenly or not."""
    torch.manual_seed(seed)
    found: dict[str, nn.Module] = {
        "para_gru": ft.nn.ParaGRU(5, 6),
        "para_lstm": ft.nn.ParaLSTM(5, 6),
        "linear_rnn": ft.nn.LinearRNN(5, 6),
        "delta_net": ft.nn.DeltaNet(5, 6, num_heads=2, decay=True, output_gate=True),
        "block": ft.nn.sLSTMBlock(8, num_heads=2),
        "one_head": ft.nn.LSTM(5, 7, proj_size=3),
        "hopfield": ft.nn.Hopfield(8),
        "quantized": ft.nn.QuantLSTM(5, 6),
    }
    return nn.ModuleDict(found)


class Model(nn.Module):
    """Heads divided over all ranks, and other modules sharded by FSDP2, with an optimizer that has state."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        self.heads: Any = parallelize_module(recurrent(seed), mesh, {"*": HeadParallel()})
        self.others: Any = others(seed)
        for module in self.others.values():
            fully_shard(module, mesh=mesh)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return SGD with momentum after one step, whose gradient is the parameter itself."""
        step = torch.optim.SGD(self.parameters(), 0.5, momentum=0.9)
        for p in self.parameters():
            p.grad = p.detach()
        step.step()
        return step


def whole(state: Any) -> dict[str, Tensor]:
    """Return the full tensors of a state by name."""
    found: dict[str, Tensor] = {}
    for name, x in state.items():
        if isinstance(x, dict):
            found |= {f"{name}.{inner}": y for inner, y in whole(x).items()}
        elif isinstance(x, Tensor):
            found[name] = x.full_tensor() if hasattr(x, "full_tensor") else x
    return found


def save(folder: str) -> dict[str, Tensor]:
    _quiet()
    model = Model(1)
    parameters, state = get_state_dict(model, model.optimizer())
    state_dict_saver.save({"model": parameters, "optimizer": state}, checkpoint_id=folder)
    return whole({"model": parameters, "optimizer": state})


def load(folder: str) -> tuple[dict[str, Tensor], list[int]]:
    """Return the state of another model after loading, and the rows of its parameters on this rank."""
    _quiet()
    model = Model(2)
    step = model.optimizer()
    parameters, state = get_state_dict(model, step)
    state_dict_loader.load({"model": parameters, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(model, step, model_state_dict=parameters, optim_state_dict=state)
    parameters, state = get_state_dict(model, step)
    heads = [p.to_local().shape[1] for p in model.heads.parameters()]
    return whole({"model": parameters, "optimizer": state}), heads


def load_undivided(folder: str) -> dict[str, Tensor]:
    """Load divided modules into undivided ones, through views by gates, heads and units, and run them."""
    _quiet()
    modules = recurrent(3)
    views = {}
    for kind, module in modules.items():
        for name, p in module.named_parameters():
            views[f"heads.{kind}.{name}"] = p.detach().unflatten(0, (-1, HEADS, WIDTH // HEADS))
    state_dict_loader.load({"model": views}, checkpoint_id=folder, no_dist=True)
    return {f"model.heads.{name}": p.detach() for name, p in modules.named_parameters()}


def _quiet() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed.checkpoint")
