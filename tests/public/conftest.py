"""Hypothesis settings: the same calls in every run, and many more with ``--hypothesis-profile explore``."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("fixed", derandomize=True, max_examples=15, **COMMON)  # type: ignore[arg-type]
settings.register_profile("explore", max_examples=2000, print_blob=True, **COMMON)  # type: ignore[arg-type]
settings.load_profile("fixed")
