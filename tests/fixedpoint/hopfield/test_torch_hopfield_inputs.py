"""Inconsistent inputs of Hopfield layers are refused, as a mask of another size or kind would be misinterpreted."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch.nn import Hopfield, HopfieldLayer, HopfieldPooling  # noqa: E402

BOOL = torch.bool
WRONG_MASKS: list[tuple[Any, Any, type[Exception], str]] = [
    (
        torch.zeros(3, 4, dtype=BOOL),
        None,
        ValueError,
        r"stored_pattern_padding_mask must have shape \(3, 5\), got \(3, 4",
    ),
    (
        torch.zeros(1, 5, dtype=BOOL),
        None,
        ValueError,
        r"stored_pattern_padding_mask must have shape \(3, 5\), got \(1, 5",
    ),
    (torch.ones(3, 5, dtype=torch.uint8), None, TypeError, "stored_pattern_padding_mask must be a tensor of bool, got"),
    (torch.ones(3, 5), None, TypeError, "stored_pattern_padding_mask must be a tensor of bool, got torch.float32"),
    (None, torch.ones(4, 5, dtype=torch.int64), TypeError, "association_mask must be a tensor of bool or floats, got"),
    (None, "causal", TypeError, "association_mask must be a tensor of bool or floats, got str"),
    (None, torch.zeros(4, 3, dtype=BOOL), ValueError, r"association_mask must have shape \(4, 5\) or \(6, 4, 5\), got"),
    (None, torch.zeros(5, dtype=BOOL), ValueError, r"association_mask must have shape \(4, 5\) or \(6, 4, 5\), got"),
    (
        None,
        torch.zeros(3, 4, 5),
        ValueError,
        r"association_mask must have shape \(4, 5\) or \(6, 4, 5\), got \(3, 4, 5",
    ),
]


@pytest.mark.parametrize(("padding", "mask", "error", "message"), WRONG_MASKS)
def test_masks_that_do_not_fit(padding: Any, mask: Any, error: Any, message: str) -> None:
    torch.manual_seed(0)
    layer, stored, state = Hopfield(8, num_heads=2), torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    with pytest.raises(error, match=f"^Hopfield: {message}"):
        layer((stored, state, stored), padding, mask)
    with pytest.raises(error, match=f"^Hopfield: {message}"):
        layer.get_association_matrix((stored, state, stored), padding, mask)


def test_patterns_that_do_not_fit() -> None:
    layer, x = Hopfield(8), torch.randn(3, 5, 8)
    with pytest.raises(
        ValueError, match=r"^Hopfield: state patterns must have a batch of 1 or 3 like the others, got 2"
    ):
        layer((x, x[:2], x))
    with pytest.raises(ValueError, match=r"^Hopfield: pattern projections must be 5 like stored patterns, got 4"):
        layer((x, x, x[:, :4]))
    with pytest.raises(
        TypeError, match=r"^Hopfield: input must be a tensor or \(stored, state, projection\), got NoneType"
    ):
        layer(None)
    with pytest.raises(TypeError, match=r"^HopfieldPooling: input must be a tensor or \(stored, projection\), got str"):
        HopfieldPooling(8)("abc")
    with pytest.raises(ValueError, match=r"^HopfieldPooling: input must have three axes, got shape \(5, 8\)"):
        HopfieldPooling(8)(x[0])


def test_one_batch_of_patterns_serves_all_rows() -> None:
    torch.manual_seed(0)
    layer, stored, state = Hopfield(8, num_heads=2), torch.randn(1, 5, 8), torch.randn(3, 4, 8)
    padding = torch.zeros(3, 5, dtype=BOOL)
    padding[1, 2:] = True
    each = stored.expand(3, -1, -1)
    torch.testing.assert_close(layer((stored, state, stored), padding), layer((each, state, each), padding))
    lookup = HopfieldLayer(8, quantity=5, num_heads=2)
    assert lookup(state, padding).shape == (3, 4, 8) and lookup(state[:0], padding[:0]).shape == (0, 4, 8)


def test_wrong_options_of_each_head() -> None:
    for wrong in (-1.0, 0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^Hopfield: scaling must be finite and above 0, got \[1.0, "):
            Hopfield(8, num_heads=2, scaling=torch.tensor([1.0, wrong]))
    for steps in (torch.tensor([1.5, 2.0]), torch.tensor([True, False])):
        with pytest.raises(TypeError, match=r"^Hopfield: update_steps_max must be a tensor of integers, got torch"):
            Hopfield(8, num_heads=2, update_steps_max=steps)
