"""Instruction sets of this build that run here: one kind in a build for one machine, all with ``LEVELS=all``."""

from __future__ import annotations

import pytest

from fastiter import _core

AVAILABLE = _core.isa_available().split()
#: The last of each kind: levels of one kind, such as v4, v4_bf16 and v4_amx, differ only in the products of bfloat16.
LAST_OF_A_KIND = list({isa.partition("_")[0]: isa for isa in AVAILABLE}.values())
ONE_ALONE = f"nothing to compare {AVAILABLE[-1]} with: LEVELS=all builds every instruction set"


def kinds_to_compare() -> list[str]:
    """Return one instruction set of each kind; skip the test if there is one kind alone."""
    if len(LAST_OF_A_KIND) < 2:
        pytest.skip(ONE_ALONE)
    return LAST_OF_A_KIND
