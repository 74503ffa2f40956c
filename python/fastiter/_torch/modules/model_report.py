"""Reports of functions that change the modules of a model in place and return it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn

from ..._check import check_flag, type_name

Model = TypeVar("Model", bound=nn.Module)
Report = TypeVar("Report")
#: The number of different names in a line of a report
_PATHS = 3


def check_model(function: str, model: object, **flags: object) -> None:
    """Check that a model is a module and that its options are bools."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module, got {type_name(model)}")
    for name, flag in flags.items():
        check_flag(function, name, flag)


def text_of(verb: str, done: Mapping[str, str], left: Mapping[str, str], nothing: str) -> str:
    """Return one line for each kind of module: the change that was made, or the reason why there was none."""
    lines = [f"{verb} {_modules(names)}: {what}" for what, names in _kinds(done).items()]
    lines += [f"left {_modules(names)}: {why}" for why, names in _kinds(left).items()]
    return "\n".join(lines) or nothing


def _kinds(found: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names of modules by the text about them, without the arguments of a class where these differ."""
    kinds: dict[str, dict[str, str]] = {}
    for name, text in found.items():
        kinds.setdefault(re.sub(r"^(\w+)\([^()]*\)", r"\1", text), {})[name] = text
    return {kind if len(set(of.values())) > 1 else next(iter(of.values())): list(of) for kind, of in kinds.items()}


def _modules(names: Sequence[str]) -> str:
    """Return the name of a module, or the number of several and their names, with ``*`` in place of indices."""
    if len(names) == 1:
        return names[0] or "the model itself"
    paths = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", name) or "the model itself" for name in names))
    more = f" and {len(paths) - _PATHS} more" if len(paths) > _PATHS else ""
    return f"{len(names)} modules, {', '.join(paths[:_PATHS])}{more}"


def finish(model: Model, report: Report, verbose: bool, return_report: bool) -> Model | tuple[Model, Report]:
    """Return the model, with the report if it is requested, after printing the report if that is requested."""
    if verbose:
        print(report)
    return (model, report) if return_report else model
