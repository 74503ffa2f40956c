"""The type of a record, apart from what measures it: the programs that only keep records need no torch."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
