"""Checkpoints of modules divided by heads or sharded by FSDP2, for other numbers of ranks, and without ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from tests.distributed.ranks import results
from tests.distributed.sequences import checkpoint_jobs


def test_checkpoints_load_on_other_numbers_of_ranks(tmp_path: Path) -> None:
    """Parameters and SGD's momentum, saved by 2 ranks, keep their bits."""
    folder = str(tmp_path / "checkpoint")
    saved, _ = results(checkpoint_jobs.save, 2, folder)
    assert any(name.startswith("optimizer") and "momentum" in name for name in saved)
    for size in (1, 3, 4):
        for found, heads in results(checkpoint_jobs.load, size, folder):
            assert set(heads) == {checkpoint_jobs.HEADS // size}
            assert found.keys() == saved.keys()
            for name, x in saved.items():
                assert torch.equal(found[name], x), f"{size} ranks: {name}"
    undivided = checkpoint_jobs.load_undivided(folder)
    assert undivided
    for name, p in undivided.items():
        assert torch.equal(p, saved[name].view(p.shape)), name
