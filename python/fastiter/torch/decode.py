"""Whole recurrent language models, one compiled call per token; see :class:`fastiter.torch.Decoder`."""

from __future__ import annotations

from .._public import publish
from ..decode._torch.decoder import Decoder
from ..decode._torch.load import load
from ..decode._torch.report import DecoderLayer, DecoderReport

__all__ = ["Decoder", "DecoderLayer", "DecoderReport", "load"]

publish(globals())
