"""Layers that compute in the dtype of their parameters, even under autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from ...._torch.ops import autocast_device, autocast_dtype

Method = TypeVar("Method", bound=Callable[..., Any])


def without_autocast(method: Method) -> Method:
    """Return a module's method that runs without autocast.

    Products in half precision have a fixed point only up to their rounding, which is above the tolerances for float32.

    Parameters
    ----------
    method : callable
        The method.
    """

    @functools.wraps(method)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        like = next(self.parameters())
        if autocast_dtype(like) is None:
            return method(self, *args, **options)
        with torch.autocast(autocast_device(like), enabled=False):
            return method(self, *args, **options)

    return cast(Method, run)
