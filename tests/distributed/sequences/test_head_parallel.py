"""Modules whose heads are divided over ranks, against the undivided ones: training, weights, states and errors."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.distributed.ranks import results
from tests.distributed.sequences import head_jobs


def test_training_over_heads_and_rows() -> None:
    """Outputs, gradients and weights of two gradient descent steps; sums of fewer than 1000 products in float64."""
    assert max(results(head_jobs.trained, 4)) < 1e-11


def test_weights_and_states_of_the_undivided_module() -> None:
    """Sums of fewer than 100 products of numbers of order one, in float64."""
    assert max(results(head_jobs.loaded, 2)) < 1e-12


#: The first words of the errors of both ranks, or of each rank
ERRORS: dict[str, str | tuple[str, str]] = {
    "torch's module": "TypeError: HeadParallel: module must be an LSTM, GRU, RNN or sLSTM of fastiter.torch.nn, "
    "got LSTM",
    "one head": "ValueError: HeadParallel: num_heads of LSTM must be more than 1, got 1",
    "three heads": "ValueError: HeadParallel: num_heads of LSTM must be a multiple of 2, the ranks, got 3",
    "dropout": "ValueError: HeadParallel: dropout of LSTM must be 0, as ranks draw other numbers, got 0.5",
    "own forward": "TypeError: HeadParallel: module must run the forward of torch.nn's or fastiter.torch.nn's LSTM",
    "twice": "ValueError: HeadParallel: module must not be divided yet, got LSTM with DTensors",
    "other sizes": "ValueError: HeadParallel: module must be the same on every rank, got LSTM(3, 4, num_heads=2) on "
    "rank 0 and LSTM(3, 8, num_heads=2) on rank 1",
    "one rank's module": (
        "ValueError: HeadParallel: rank 1 refused its arguments: HeadParallel: module must be an LSTM, GRU, RNN or ",
        "TypeError: HeadParallel: module must be an LSTM, GRU, RNN or sLSTM of fastiter.torch.nn, got Linear",
    ),
    "two axes": "ValueError: HeadParallel: device_mesh must have 1 axis, got one with 2",
    "a layout": "TypeError: HeadParallel: input_layouts must be a Placement, got str",
    "a flag": "TypeError: HeadParallel: use_local_output must be a bool, got int",
    "packed": "TypeError: LSTM: input must be a Tensor if heads are divided (lengths takes rows of several lengths)",
    "step": "TypeError: LSTM.step: module must not be divided by HeadParallel; call forward instead",
    "stream": "TypeError: StreamingRNN: module must run the forward of torch.nn's or fastiter.torch.nn's LSTM",
    "whole state": "RuntimeError: LSTM: hx[0] (h) must have shape (1, 2, 2), got (1, 2, 4)",
    "features": "RuntimeError: LSTM: input must have input_size = 3 features, got 2",
}


def test_errors() -> None:
    for rank, found in enumerate(results(head_jobs.errors, 2)):
        assert found.keys() == ERRORS.keys()
        for name, expected in ERRORS.items():
            start = expected if isinstance(expected, str) else expected[rank]
            assert found[name].startswith(start) and "\n" not in found[name], f"{name}: {found[name]}"
