"""The cycles of each instruction until its result is available: a model of an H100, or a card's measurements."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path


@dataclass(frozen=True)
class Latencies:
    """Cycles until an instruction's result is available, where the control words do not determine them.

    The defaults are published measurements of Hopper and its predecessors; they were not measured here. ``memory`` is
    a load that misses the caches, ``l2`` one that hits L2, ``shared`` and ``shared_wide`` loads of up to 8 and of 16
    bytes from shared memory, ``function`` exponentials, reciprocals and roots, ``tensor`` a product of fragments,
    ``barrier`` a barrier of the block that the other warps have reached, ``fence`` a fence for the whole card,
    ``cluster`` a barrier of a cluster, ``remote`` the time from a store into the shared memory of another block of the
    cluster until it is visible to that block.
    """

    memory: float = 600
    l2: float = 280
    shared: float = 29
    shared_wide: float = 33
    constant: float = 30
    function: float = 20
    conversion: float = 18
    check: float = 16
    tensor: float = 28
    atomic: float = 350
    special: float = 25
    shuffle: float = 25
    barrier: float = 28
    fence: float = 600
    invalidate: float = 30
    cluster: float = 200
    remote: float = 250
    operands: float = 20
    clock: float = 1755

    @classmethod
    def of_record(cls, path: Path) -> Latencies:
        """Return the latencies in a card's record, bench/results/<card>.json; missing ones keep their defaults."""
        measured = {row["name"]: row["cycles"] for row in json.loads(path.read_text()).get("latencies", [])}
        known = {field.name: measured[field.name] for field in fields(cls) if field.name in measured}
        return replace(cls(), **known)

    def of(self, name: str, suffixes: frozenset[str]) -> float:
        """Return the cycles from the issue of an instruction to its result."""
        if name in ("LDG", "LD", "LDGSTS"):
            return self.l2 if "STRONG" in suffixes else self.memory
        if name == "LDS":
            return self.shared_wide if "128" in suffixes else self.shared
        return {
            "LDC": self.constant,
            "LDSM": self.shared_wide,
            "ATOM": self.atomic,
            "ATOMG": self.atomic,
            "ATOMS": self.shared,
            "MUFU": self.function,
            "FCHK": self.check,
            "F2F": self.conversion,
            "F2I": self.conversion,
            "I2F": self.conversion,
            "S2R": self.special,
            "S2UR": self.special,
            "SHFL": self.shuffle,
            "HMMA": self.tensor,
        }.get(name, 5)

    def stop(self, name: str) -> float:
        """Return the cycles for which an instruction blocks the whole warp, or 0."""
        return {
            "BAR": self.barrier,
            "MEMBAR": self.fence,
            "CCTL": self.invalidate,
            "UCGABAR_WAIT": self.cluster,
        }.get(name, 0)
