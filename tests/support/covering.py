"""A pytest plugin, ``-p tests.support.covering``, for tests that have run in full and run again in another setting.

It keeps a few parametrizations of each test in which each value of each parameter occurs, in combinations that are
drawn, but the same ones each time.
"""

from __future__ import annotations

import random

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seen: set[tuple[str, str, int]] = set()
    kept = set()
    for item in random.Random(0).sample(items, len(items)):
        given: dict[str, object] = item.callspec.params if hasattr(item, "callspec") else {}
        # The parametrizations of a test share the objects in the lists of their decorators.
        values = {(item.nodeid.partition("[")[0], name, id(value)) for name, value in given.items()}
        if not values or values - seen:
            kept.add(item)
            seen |= values
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
