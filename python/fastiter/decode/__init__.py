"""One token of a whole recurrent language model as one compiled call."""

from __future__ import annotations
