"""The loops over episodes in scripts of CleanRL and models of skrl, and the one call that the documentation gives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import nn  # noqa: E402

STEPS, ROWS, FEATURES, WIDTH = 9, 3, 6, 8


def given(**options: Any) -> tuple[Any, Any, Any, Any]:
    """Return an LSTM, its input, flags, some of them in the first and in the last step, and states."""
    torch.manual_seed(0)
    lstm, x = nn.LSTM(FEATURES, WIDTH, **options), torch.randn(STEPS, ROWS, FEATURES)
    flags = torch.rand(STEPS, ROWS) < 0.3
    flags[0, 1] = flags[-1, 0] = True
    return lstm, x, flags, tuple(torch.randn(2, 1, ROWS, WIDTH))


def check(lstm: Any, ours: Any, loop: Any) -> None:
    gradients = [torch.autograd.grad(out.square().sum(), list(lstm.parameters())) for out in (ours, loop)]
    for a, e in zip((ours, *gradients[0]), (loop, *gradients[1]), strict=True):
        assert (a - e).norm() <= STEPS * torch.finfo(torch.float32).eps * e.norm()


def test_done_flags_of_steps() -> None:
    lstm, x, done, state = given()
    outputs, loop_state = [], state
    for x_t, done_t in zip(x, done.float(), strict=True):
        kept = (1 - done_t)[None, :, None]
        out, loop_state = lstm(x_t[None], (kept * loop_state[0], kept * loop_state[1]))
        outputs.append(out)
    found, found_state = lstm(x, state, reset=done)
    check(lstm, found, torch.cat(outputs))
    for a, e in zip(found_state, loop_state, strict=True):
        torch.testing.assert_close(a, e)


def test_parts_that_end_at_terminated_steps() -> None:
    lstm, x, terminated, state = given(batch_first=True)
    x, terminated = x.transpose(0, 1), terminated.t()
    cuts = [0, *(terminated[:, :-1].any(0).nonzero()[:, 0] + 1).tolist(), STEPS]
    outputs, (h, c) = [], state
    for first, last in pairwise(cuts):
        out, (h, c) = lstm(x[:, first:last], (h, c))
        kept = ~terminated[:, last - 1, None]
        h, c = h * kept, c * kept
        outputs.append(out)
    found, _ = lstm(x, state, reset=torch.nn.functional.pad(terminated, (1, 0))[:, :-1])
    check(lstm, found, torch.cat(outputs, 1))
