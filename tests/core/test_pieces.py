"""Long recurrences run in pieces of time: the same bits, and Ctrl-C is answered between them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastiter
from fastiter import _pieces
from tests.support.cases import assert_same_bits, nans

B, T, N, D = 3, 23, 2, 5


def randn(*shape: int) -> Any:
    return np.random.default_rng(shape).standard_normal(shape)


FLAGS = randn(B, T) > 1
CALLS: dict[str, Callable[..., Any]] = {
    "lstm": lambda **how: fastiter.lstm(randn(B, T, 4, N, D), randn(4, N, D, D), return_all_states=True, **how),
    "gru": lambda **how: fastiter.gru(randn(T, B, 3, N, D).swapaxes(0, 1), randn(3, N, D, D), **how),
    "slstm": lambda **how: fastiter.slstm(randn(B, T, 4, N, D), randn(4, N, D, D), **how),
    "linear_scan": lambda **how: fastiter.linear_scan(randn(B, T, D), randn(B, T, D), **how),
    "linear_scan, one factor": lambda **how: fastiter.linear_scan(randn(D), randn(B, T, D), **how),
    "block_scan": lambda **how: fastiter.block_scan(randn(T, N, D, D) / 3, randn(B, T, N, D), **how),
    "delta_scan": lambda **how: fastiter.delta_scan(
        randn(B, T, N, D), randn(B, T, N, D) / 4, randn(B, T, N, 3), randn(B, T, N), decay=randn(B, T, N), **how
    ),
    "paragru": lambda **how: fastiter.paragru(randn(B, T, 3, D), randn(3, D), **how),
    "paralstm": lambda **how: fastiter.paralstm(randn(B, T, 3, D), randn(3, D), randn(2, D), **how),
}


def leaves(x: Any) -> list[Any]:
    return [leaf for part in x for leaf in leaves(part)] if isinstance(x, tuple) else [x]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_pieces_have_the_bits_of_the_whole(name: str, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = [{}, {"lengths": [T, 0, 9]}]
    options += [{"reset": FLAGS}, {"reset": FLAGS[0], "lengths": [T, 0, 9]}] if "para" not in name else []
    expected = [leaves(CALLS[name](reverse=reverse, **how)) for how in options]
    for longest in (1, 2000):  # one step in a piece, and a few
        monkeypatch.setattr(_pieces, "LONGEST", longest)
        for how, whole in zip(options, expected, strict=True):
            out = nans(whole[0].shape, np.float64)
            found = leaves(CALLS[name](reverse=reverse, out=out, **how))
            assert found[0] is out
            for actual, x in zip(found, whole, strict=True):
                assert_same_bits(actual, x)
            assert_same_bits(leaves(CALLS[name](reverse=reverse, **how))[0], whole[0])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_pieces_of_tensors(name: str, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from fastiter.rnn._torch import run

    gates, more = {"lstm": 4, "gru": 3}[name], {"reverse": reverse, "return_all_states": True}
    wx, r = torch.from_numpy(randn(B, T, gates, N, D)), torch.from_numpy(randn(gates, N, D, D))
    for how in ({}, {"lengths": [T, 0, 9], "reset": torch.from_numpy(FLAGS)}, {"cu_seqlens": [0, 4, T]}):
        x = wx[:1] if "cu_seqlens" in how else wx
        whole = leaves(getattr(fastiter.torch, name)(x, r, **more, **how))
        for longest in (1, 3000):
            with monkeypatch.context() as patch:
                patch.setattr(_pieces, "LONGEST", longest)
                patch.setattr(run, "LONGEST", longest)
                found = leaves(getattr(fastiter.torch, name)(x, r, **more, **how))
            assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    monkeypatch.setattr(run, "LONGEST", 1)
    with pytest.raises(ValueError, match=rf"^{name}: lengths must be from 0 to T = {T}, got {T + 1}$"):
        getattr(fastiter.torch, name)(wx, r, lengths=[T, 0, T + 1])


LONG = """
import numpy as np, fastiter
wx, r = np.broadcast_to(np.zeros(1024), (4, 10_000, 4, 1, 1024)), np.zeros((4, 1, 1024, 1024))
print("begins", flush=True)
try:
    fastiter.lstm(wx, r)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_is_answered() -> None:
    with subprocess.Popen([sys.executable, "-c", LONG], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        took = time.monotonic() - sent
    assert took < 2, took  # half a second on a quiet machine
