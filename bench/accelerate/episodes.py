"""LSTMs on batches of episodes: policies of sb3-contrib and modules of torchrl, before and after accelerate.

Rows of a batch of RecurrentPPO begin with an episode; those of torchrl have episodes of `EPISODE` steps on average.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import fastiter.torch
from bench.harness.contest import Record, Work, leaves, race, torch_entrant
from bench.harness.peers import load
from bench.harness.session import Options

FEATURES, EPISODE = 16, 50


class Batch(NamedTuple):
    """The width of an LSTM, and the rows and steps of its input."""

    width: int
    rows: int
    steps: int


#: 256 steps of CartPole in 13 parts of episodes, and 8 environments
FULL = {"RecurrentPPO": Batch(256, 13, 44), "LSTMModule": Batch(256, 8, 128)}
QUICK = {"RecurrentPPO": Batch(16, 3, 9), "LSTMModule": Batch(16, 3, 9)}
PACKAGES = {"RecurrentPPO": "sb3_contrib", "LSTMModule": "torchrl"}


def loop(starts: Tensor, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Tensor:
    """Return the outputs (rows, steps, H) for x (rows, steps, I), step by step; starts (rows, steps)."""
    w_ih, w_hh, b_ih, b_hh = weights
    outputs = []
    for x_t, start in zip(x.unbind(1), starts.unbind(1), strict=True):
        kept = (~start).to(x.dtype)[:, None]
        gates = x_t @ w_ih.T + b_ih + (kept * h) @ w_hh.T + b_hh
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * kept * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, 1)


def policy_of(batch: Batch) -> Any:
    from gymnasium import spaces
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

    space = spaces.Box(-1.0, 1.0, (FEATURES,))
    return RecurrentActorCriticPolicy(space, spaces.Discrete(2), lambda step: 1e-3, lstm_hidden_size=batch.width)


def by_policy(policy: Any, starts: Tensor, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Tensor:
    states, flags = (h.unsqueeze(0), c.unsqueeze(0)), starts.flatten().to(x.dtype)
    out: Tensor = policy._process_sequence(x.flatten(0, 1), states, flags, policy.lstm_actor)[0]
    return out.unflatten(0, starts.shape)


def module_of(batch: Batch) -> Any:
    from torchrl.modules import LSTMModule

    keys = {"in_keys": ["x", "h", "c"], "out_keys": ["y", "h_next", "c_next"]}
    return LSTMModule(input_size=FEATURES, hidden_size=batch.width, default_recurrent_mode=True, **keys)


def by_module(module: Any, starts: Tensor, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Tensor:
    """Return the outputs; states within rows are zero, as after a reset of an environment."""
    from tensordict import TensorDict

    states = (nn.functional.pad(s[:, None, None], (0, 0, 0, 0, 0, x.shape[1] - 1)) for s in (h, c))
    given = TensorDict(dict(zip("xhc", (x, *states), strict=True)) | {"is_init": starts.unsqueeze(-1)}, starts.shape)
    out: Tensor = module(given)["y"]
    return out


def work_of(name: str, batch: Batch) -> tuple[Work, Callable[..., Tensor]]:
    """Return the task, and the function of the unchanged object, whose LSTM has the same weights."""
    torch.manual_seed(0)
    is_policy = name == "RecurrentPPO"
    before = (policy_of if is_policy else module_of)(batch)
    run, layer = (by_policy, "lstm_actor") if is_policy else (by_module, "lstm")
    weights, after = dict(getattr(before, layer).named_parameters()), copy.deepcopy(before)
    for key, weight in weights.items():
        setattr(getattr(after, layer), key, weight)
    fastiter.torch.accelerate(after)
    starts = torch.zeros(batch.rows, batch.steps, dtype=torch.bool)
    if is_policy:
        starts[:, 0] = True
    else:
        starts[:, 1:] = torch.rand(batch.rows, batch.steps - 1) < 1 / EPISODE
        starts[0, batch.steps // 2] = True
    x = torch.randn(batch.rows, batch.steps, FEATURES)
    inputs = leaves(x=x, h=torch.randn(batch.rows, batch.width), c=torch.randn(batch.rows, batch.width)) | weights
    cotangent = torch.randn(batch.rows, batch.steps, batch.width)
    task = f"{name} {batch.width}, {batch.rows} x {batch.steps}"
    work = Work(task, partial(run, after, starts), partial(loop, starts), inputs, cotangent, batch.steps)
    return work, partial(run, before, starts)


def batches(options: Options) -> Iterator[Record]:
    for name, batch in (QUICK if options.quick else FULL).items():
        package = PACKAGES[name]
        if load(package) is None:
            continue
        work, theirs = work_of(name, batch)
        for threads in options.threads:
            peers = options.chosen([torch_entrant(package, theirs, work)])
            yield race(work, peers, threads, options.budget, options.stirring())
