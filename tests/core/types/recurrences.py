"""Recurrent cells, scans, the delta rule and Newton's method along time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import fastiter
from fastiter.newton import NewtonInfo

Array = npt.NDArray[Any]


def arrays() -> None:
    """Run a language model's layers, and continue each from its last state."""
    rng = np.random.default_rng(0)
    wx, r = rng.standard_normal((2, 5, 4, 1, 3)), rng.standard_normal((4, 1, 3, 3))
    found = fastiter.lstm(wx, r)
    assert_type(found, fastiter.RnnResult)
    output, (h, c) = found
    assert_type(output, Array)
    assert_type(c, Array)
    every = fastiter.slstm(wx, r, return_all_states=True)
    assert_type(every, fastiter.RnnStates)
    assert_type(every.states, tuple[Array, ...])
    last = fastiter.gru(wx[:, :, :3], r[:3], state=h).state[0]
    assert_type(last, Array)
    assert_type(fastiter.elman(wx[:, :, :1], r[:1], activation="relu").output, Array)

    states, state = fastiter.linear_scan(np.full((2, 5, 3), 0.5), output[:, :, 0])
    assert_type(states, Array)
    assert_type(state, Array)
    assert_type(fastiter.block_scan(np.zeros((2, 5, 1, 3, 3)), output)[0], Array)
    q, k, v = rng.standard_normal((3, 2, 8, 1, 4))
    assert_type(fastiter.delta_scan(q, k, v, np.ones((2, 8, 1))), tuple[Array, Array])

    gates, a = rng.standard_normal((2, 9, 3, 4)), np.zeros((3, 4))
    assert_type(fastiter.paragru(gates, a).output, Array)
    assert_type(fastiter.paragru(gates, a, return_info=True).info, NewtonInfo)


def tensors() -> None:
    """The same layers as modules and functions of torch, and a user's own cell."""
    import torch
    from torch import Tensor
    from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

    import fastiter.torch
    from fastiter.torch import RecurrenceSolution, RnnResult, nn

    x = torch.randn(2, 5, 6)
    lstm = nn.LSTM(6, 8, batch_first=True)
    output, (h, c) = lstm(x)
    assert_type(output, Tensor)
    assert_type(h, Tensor)
    assert_type(lstm(x, (h, c))[1], tuple[Tensor, Tensor])
    packed, last = nn.GRU(6, 8, batch_first=True)(pack_padded_sequence(x, [5, 3], batch_first=True))
    assert_type(packed, PackedSequence)
    assert_type(last, Tensor)
    assert_type(nn.RNN(6, 8)(x), tuple[Tensor, Tensor])
    assert_type(nn.sLSTM(6, 8)(x)[1], tuple[Tensor, Tensor, Tensor, Tensor])
    assert_type(nn.LinearRNN(6, 8)(x, lengths=[2, 1, 2, 0, 1]), tuple[Tensor, Tensor])
    assert_type(nn.ParaGRU(6, 8)(x), tuple[Tensor, Tensor])
    assert_type(nn.ParaLSTM(6, 8)(x)[1], tuple[Tensor, Tensor])
    assert_type(nn.DeltaNet(6, 8)(x)[0], Tensor)
    assert_type(lstm.step(x[:, 0], (h, c))[0], Tensor)

    wx, r = torch.randn(2, 5, 4, 1, 3), torch.randn(4, 1, 3, 3)
    assert_type(fastiter.torch.lstm(wx, r), RnnResult)
    assert_type(fastiter.torch.lstm(wx, r, return_all_states=True).states, tuple[Tensor, ...])
    assert_type(fastiter.torch.linear_scan(x.sigmoid(), x), tuple[Tensor, Tensor])

    def cell(h: Tensor, x: Tensor, params: Tensor) -> Tensor:
        return torch.tanh(params * h + x)

    found = fastiter.torch.solve_recurrence(cell, x, torch.tensor(0.5))
    assert_type(found, RecurrenceSolution[Tensor])
    assert_type(found.value, Tensor)
    assert_type(found.last, Tensor)
    assert_type(found.converged, Tensor)
    assert_type(found.reason, tuple[str, ...])

    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.GRU(6, 6))
    assert_type(fastiter.torch.accelerate(model), torch.nn.Sequential)
    same, report = fastiter.torch.accelerate(model, return_report=True)
    assert_type(same, torch.nn.Sequential)
    assert_type(report.left, dict[str, str])
    assert_type(fastiter.torch.restore(model), torch.nn.Sequential)
