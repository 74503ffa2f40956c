"""The packed weights of a model: a format for each matrix of its plan, and the matrices themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..._check import type_name
from ...quant import parse
from ...quant._formats.base import Format
from .._pack import KINDS, PackedMatrix, pack_rows
from ..plan import Embed, Experts, Linear, Matrix, Plan

FormatLike: TypeAlias = "str | Format | None"
#: A format for all matrices, or formats by shell patterns of the names of modules
Weights: TypeAlias = "FormatLike | Mapping[str, FormatLike]"

#: Names of packed formats by the names that fastiter.quant has for the same numbers
_NAMES = {
    "fp32": "f32",
    "fp64": "f64",
    "bf16": "bf16",
    "int8": "int8",
    "int4": "int4",
    "nf4": "nf4",
    "mxfp4_e2m1": "mxfp4",
    "mxfp8_e4m3": "mxfp8",
    "nvfp4": "nvfp4",
}
_EXACT = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f32"}


@dataclass(frozen=True)
class Choice:
    """The format of a matrix; ``group`` inputs share a scale, None for the format's own number."""

    format: str
    group: int | None = None


def format_name(argument: str, fmt: Any) -> str:
    """Return the name of a packed format from a format of fastiter.quant, or a text that names one."""
    if not isinstance(fmt, (str, Format)):
        raise TypeError(f"Decoder: {argument} must be a format of fastiter.quant or its name, got {type_name(fmt)}")
    if isinstance(fmt, str) and fmt in KINDS:
        return fmt
    text = str(parse(fmt) if isinstance(fmt, str) else fmt)
    if text not in _NAMES:
        listed = ", ".join(KINDS)
        raise ValueError(f"Decoder: {argument} must be one of {listed}, the formats with a product, got {text!r}")
    return _NAMES[text]


def matrices_of(plan: Plan) -> Iterator[tuple[Matrix, bool]]:
    """Yield the matrices of a plan in order, and whether each is multiplied rather than looked up."""
    for step in plan.steps:
        if isinstance(step, Embed):
            yield step.table, False
        elif isinstance(step, Linear):
            yield step.matrix, True
        elif isinstance(step, Experts):
            for group in (step.gate or (), step.up, step.down):
                yield from ((matrix, True) for matrix in group)


def head_of(plan: Plan) -> Matrix:
    """Return the matrix whose product is the logits."""
    return next(x.matrix for x in reversed(plan.steps) if isinstance(x, Linear) and x.out.name == "logits")


def choose(
    plan: Plan, parameters: Mapping[str, Tensor], weights: Weights, head: FormatLike, group: int | None
) -> dict[Matrix, Choice]:
    """Return the format of each matrix.

    Matrices that are only looked up, those without a pattern, and those whose pattern has None keep the numbers of the
    model.
    """
    patterns = _patterns(weights)
    top = head_of(plan)
    of_head = None if head is None else format_name("head", head)
    multiplied = [matrix for matrix, is_product in matrices_of(plan) if is_product]
    chosen: dict[Matrix, Choice] = {}
    matched: set[str] = set()
    for matrix in multiplied:
        module = matrix.name.removesuffix(".weight")
        pattern = next((p for p in patterns if fnmatchcase(module, p) or fnmatchcase(matrix.name, p)), None)
        matched |= {pattern} if pattern is not None else set()
        name = patterns[pattern] if pattern is not None else None
        name = of_head if matrix == top and of_head is not None else name
        chosen[matrix] = _choice(name, group, parameters[matrix.name].dtype)
    for pattern in patterns:
        if pattern not in matched:
            names = ", ".join(sorted({m.name for m in multiplied})[:3])
            raise ValueError(f"Decoder: weights[{pattern!r}] must match a layer of the model such as {names}, got none")
    for matrix, _ in matrices_of(plan):
        chosen.setdefault(matrix, Choice(_EXACT[parameters[matrix.name].dtype]))
    return chosen


def _patterns(weights: Weights) -> dict[str, str | None]:
    if weights is None:
        return {}
    if not isinstance(weights, Mapping):
        return {"*": format_name("weights", weights)}
    for pattern in weights:
        if not isinstance(pattern, str):
            raise TypeError(f"Decoder: weights must have patterns that are str, got {type_name(pattern)}")
    return {p: None if fmt is None else format_name(f"weights[{p!r}]", fmt) for p, fmt in weights.items()}


def _choice(name: str | None, group: int | None, dtype: torch.dtype) -> Choice:
    name = _EXACT[dtype] if name is None else name
    if (dtype == torch.float64) != (name == "f64"):
        raise ValueError(f"Decoder: weights must be f64 for a model in float64, and only then, got {name} for {dtype}")
    return Choice(name, group if KINDS[name].largest else None)


def pack_matrix(matrix: Matrix, parameter: Tensor, choice: Choice) -> PackedMatrix:
    """Encode and pack a matrix, block by block."""
    view = matrix.of(parameter.detach())

    def rows(first: int, last: int) -> Any:
        block = view[first:last]
        return (block if block.dtype == torch.float64 else block.float()).numpy()

    try:
        return pack_rows(rows, matrix.rows, matrix.columns, choice.format, choice.group)
    except ValueError as error:
        raise ValueError(f"Decoder: {matrix.name}: {error}") from None


def pack_all(parameters: Mapping[str, Tensor], chosen: Mapping[Matrix, Choice]) -> dict[Matrix, PackedMatrix]:
    """Pack the matrices of a plan."""
    return {matrix: pack_matrix(matrix, parameters[matrix.name], choice) for matrix, choice in chosen.items()}
