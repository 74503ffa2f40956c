"""Fixed points x = f(x): iterations that converge faster than x <- f(x), batched, with a stop for each sample."""

from __future__ import annotations

from .._public import publish

__all__ = []

publish(globals())
