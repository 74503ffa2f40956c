"""The type of a record and the words in it: programs that only read records need no torch."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
FORWARD, BOTH = "forward", "forward+backward"
MODES = (FORWARD, BOTH)
FRESH, REUSED = "fresh", "reused"  # our outputs: on fresh pages, or in the memory of an earlier result
