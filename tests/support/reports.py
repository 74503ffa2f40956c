"""The reports of functions that change a model in place and return it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastiter.torch import restore


def report_of(function: Callable[..., Any], model: Any, **options: Any) -> Any:
    """The report of accelerate, replace or restore, which return the same model."""
    returned, report = function(model, return_report=True, **options)
    assert returned is model
    return report


def restored_names(model: Any, **options: Any) -> list[str]:
    """Restore a model and list the names of the modules that were restored."""
    return list(report_of(restore, model, **options).restored)
