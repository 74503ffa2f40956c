"""Representative variants of kernels/mdp/triton_mdp.py."""

from __future__ import annotations

from typing import Any


def _backup(kind: str, entries: int, *, chain: bool, models: bool) -> tuple[str, Any, Any, Any]:
    numbers = dict.fromkeys(("weight", "reward", "v", "w"), f"*{kind}")
    whole = {"row": None if chain else "*i64", "entry": "*i64", "target": "*i32", "action": None if chain else "*i32"}
    rest = {**dict.fromkeys(("low", "high", "discount"), "*fp64"), "model": "*i64" if models else None}
    sizes = dict.fromkeys(("states", "programs", "weight_model", "reward_model"), "i64")
    given = {**whole, **numbers, **rest, **sizes}
    absent: dict[str, Any] = {name: None for name, type_ in given.items() if type_ is None}
    signature = {name: type_ for name, type_ in given.items() if type_ is not None}
    how = absent | {"STATES": max(1, 256 // entries), "ENTRIES": entries}
    return "bellman_backup_kernel", signature, how, {"num_warps": 4, "enable_fp_fusion": True}


TRITON = [
    _backup(kind, entries, chain=chain, models=models)
    for kind in ("fp32", "fp64")
    for entries, chain, models in ((1, False, False), (8, False, True), (8, True, False), (128, False, True))
]
