"""Export of recurrent layers and programs to ONNX."""

from __future__ import annotations

from .._public import publish
from ..rnn._torch.onnx import decompose, export

__all__ = ["decompose", "export"]

publish(globals())
