"""Linear systems whose rows are divided into parts: the specification of the methods over ranks."""

from __future__ import annotations
