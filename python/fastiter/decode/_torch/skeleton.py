"""A copy of a model that shares its packed weights with a decoder and computes prompts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._pack import PackedMatrix
from ..plan import Matrix
from .substitute import Parts, substitute

#: The attribute of a model that has its steps by a decoder
STEPS = "_fastiter_steps"


def shared_copy(model: Any) -> Any:
    """Return a copy of a model whose modules are new and whose tensors are the model's, without a decoder's steps."""
    memo = {id(x): x for x in (*model.parameters(), *model.buffers())}
    result = copy.deepcopy(model, memo)
    without_steps(result)
    return result


def without_steps(model: nn.Module) -> Any:
    """Let a model compute its steps itself; return what computed them, None if the model did."""
    steps = vars(model).pop(STEPS, None)
    if steps is not None:
        model.__class__ = type(model).__mro__[1]
    return steps


def packed_parts(
    model: nn.Module, matrices: Mapping[Matrix, PackedMatrix], dtype: torch.dtype | None
) -> dict[str, Parts]:
    """Return the parameters of a model that consist of packed matrices alone, as numbers of ``dtype`` or their own."""
    grouped: dict[str, dict[Matrix, PackedMatrix]] = {}
    for matrix, packed in matrices.items():
        grouped.setdefault(matrix.name, {})[matrix] = packed
    parameters = dict(model.named_parameters())
    parts = {name: Parts(parameters[name].shape, dtype or parameters[name].dtype, of) for name, of in grouped.items()}
    return {name: part for name, part in parts.items() if part.is_whole()}


def use_packed(model: nn.Module, parts: Mapping[str, Parts]) -> None:
    """Let all modules of a model read these parameters from packed weights."""
    shared = {id(x): name for name, x in model.named_parameters()}  # tied ones have one name
    for module in model.modules():
        for name, x in list(module._parameters.items()):
            if x is not None and shared[id(x)] in parts:
                substitute(module, name, parts[shared[id(x)]])


def own_tensors(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a model copies of the tensors that it shares, floats of 16 bits in ``dtype``."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, x in tensors.items():
                if x is not None:
                    tensors[name] = _owned(x, dtype)


def _owned(x: Tensor, dtype: torch.dtype) -> Any:
    own = x.detach().to(dtype if x.dtype in (torch.bfloat16, torch.float16) else x.dtype, copy=True)
    return nn.Parameter(own, requires_grad=False) if isinstance(x, nn.Parameter) else own
