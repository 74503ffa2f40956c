"""Reports of functions that change the modules of a model in place and return it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from ..._check import check_flag, type_name

Model = TypeVar("Model", bound=nn.Module)
Report = TypeVar("Report")


def check_model(function: str, model: object, **flags: object) -> None:
    """Check that a model is a module and that its options are bools."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module, got {type_name(model)}")
    for name, flag in flags.items():
        check_flag(function, name, flag)


def text_of(verb: str, done: Mapping[str, str], left: Mapping[str, str], nothing: str) -> str:
    """Return one line for each module: the change that was made, or the reason why there was none."""
    lines = [f"{verb} {name or 'the model itself'}: {what}" for name, what in done.items()]
    lines += [f"left {name or 'the model itself'}: {why}" for name, why in left.items()]
    return "\n".join(lines) or nothing


def finish(model: Model, report: Report, verbose: bool, return_report: bool) -> Model | tuple[Model, Report]:
    """Return the model, with the report if it is requested, after printing the report if that is requested."""
    if verbose:
        print(report)
    return (model, report) if return_report else model
