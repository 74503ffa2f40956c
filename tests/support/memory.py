"""Memory that kernels have to write before anything reads it."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def fill_new_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the uninitialised floats of new tensors with NaN."""
    for name in ("new_empty", "new_empty_strided"):
        real = getattr(torch.Tensor, name)

        def filled(x: Any, *args: Any, real: Any = real, **options: Any) -> Any:
            new = real(x, *args, **options)
            return new.fill_(torch.nan) if new.is_floating_point() else new

        monkeypatch.setattr(torch.Tensor, name, filled)
