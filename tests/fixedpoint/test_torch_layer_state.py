"""Layers of fixed points after a call: copies, files, and autocast."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import nn  # noqa: E402

EDGES = torch.tensor([[0, 1, 2], [1, 2, 3]])


def calls() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return each layer with its inputs."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(4, 3, generator=generator)
    pixels = torch.eye(4)[torch.randint(4, (5, 6), generator=generator)]
    tiers = [(6, 4), (3, 2)]
    return {
        "DEQ": (nn.DEQ(torch.nn.RNNCell(3, 3)), (x,)),
        "MonotoneDEQ": (nn.MonotoneDEQ(3, 5), (x,)),
        "MonotoneDEQ with forward-backward": (nn.MonotoneDEQ(3, 5, splitting="forward-backward", alpha=0.1), (x,)),
        "MonotoneDEQ of images": (nn.MonotoneDEQ(2, 3, 3), (torch.randn(2, 2, 4, 5, generator=generator),)),
        "MonotoneDBM": (nn.MonotoneDBM(tiers), ([pixels, None],)),
        "MonotoneDBM with Peaceman-Rachford": (
            nn.MonotoneDBM(tiers, splitting="peaceman-rachford"),
            ([pixels, None],),
        ),
        "ConvergentGraphSolver": (nn.ConvergentGraphSolver(3, 0, 2), (x, EDGES)),
        "ConvergentGraphSolver without features": (nn.ConvergentGraphSolver(0, 0, 2), (4, EDGES)),
        "ConvergentGraphSolver with attention": (
            nn.ConvergentGraphSolver(3, 0, 2, normalization="attention"),
            (x, EDGES),
        ),
    }


@pytest.mark.parametrize("name", calls())
def test_a_layer_can_be_copied_and_saved_after_a_call(name: str) -> None:
    layer, inputs = calls()[name]
    made = layer(*inputs)
    assert layer.solution is not None
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(*inputs), made, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in calls() if name != "DEQ"])
def test_autocast_changes_no_layer(name: str) -> None:
    layer, inputs = calls()[name]
    results = []
    for enabled in (False, True):
        layer.zero_grad()
        with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            warnings.simplefilter("error")
            made = layer(*inputs)
            made = made[-1] if isinstance(made, tuple) else made
        made.square().sum().backward()
        results.append([made, *(p.grad for p in layer.parameters() if p.grad is not None)])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
