"""Linear systems whose rows are divided into parts: the specification of the distributed methods."""

from __future__ import annotations
