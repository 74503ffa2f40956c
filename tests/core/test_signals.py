"""Signals during long calls: Ctrl-C ends them soon, and handlers that return leave no trace in the results."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")

#: Interrupts each call of CALLS, which takes seconds, and prints the CPU time per thread until it ended: unlike wall
#: time, this does not depend on other processes
PROGRAM = """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job does not inherit
{setup}
fastiter.set_num_threads({threads})
before = small()

def interrupt():
    global sent
    sent = time.process_time()
    os.kill(os.getpid(), signal.SIGINT)

for name, prepare in CALLS.items():
    run, sent = prepare(), None
    threading.Timer(0.2, interrupt).start()
    try:
        run()
    except KeyboardInterrupt:
        print(name, (time.process_time() - sent) / {threads})
    assert small() == before
"""

ARRAYS = """
import numpy as np, fastiter

def small():
    rng = np.random.default_rng(0)
    wx, r = rng.standard_normal((3, 40, 4, 2, 32)), rng.standard_normal((4, 2, 32, 32))
    return [x.tobytes() for x in fastiter.lstm(wx, r)[1]]

def lstm():
    r = np.zeros((4, 1, 1024, 1024), np.float32)
    wx = np.broadcast_to(r[0, 0, 0], (1, 20_000, 4, 1, 1024))
    return lambda: fastiter.lstm(wx, r, cu_seqlens=range(0, 20_001, 5000))

def delta_scan():
    beta = np.zeros((1, 20_000, 8), np.float32)
    q, v = (np.broadcast_to(np.zeros(n, np.float32), (1, 20_000, 8, n)) for n in (1024, 128))
    return lambda: fastiter.delta_scan(q, q, v, beta, method="chunk")

def robust_of(kind, states):
    problem = fastiter.mdp.examples.garnet(states, 4, 12, 0.9)
    start = np.random.default_rng(0).random(states)
    return lambda: fastiter.mdp.robust(problem, kind, 0.1, value0=start, atol=1e-300, max_steps=2)

def robust_kl():
    return robust_of("kl", 100_000)

def robust_s_l1():
    return robust_of("s-l1", 500_000)

def elimination_of(arrays):
    chain, states = fastiter._core.mdp.model(64, len(arrays[-1]), arrays), len(arrays[-1])
    v, solver = np.zeros(states), fastiter._core.mdp.Elimination()
    return lambda: (arrays, solver.solve(chain, 0.99, None, v, 2**62))  # a model borrows its arrays

def elimination():  # eliminated states soon lead to nearly all others
    return elimination_of(fastiter.mdp.examples.garnet(8000, 1, 5, 0.99)._process.arrays)

def elimination_order():  # the graph of a cycle is made, and sorted
    at = np.random.default_rng(0).permutation(4_000_000).astype(np.int32)
    to, entry, ones = np.empty_like(at), np.arange(len(at) + 1), np.ones(len(at))
    to[at] = np.roll(at, 1)
    return elimination_of((entry, entry, to, ones, ones))

CALLS = {"lstm": lstm, "delta_scan": delta_scan, "robust_kl": robust_kl, "robust_s_l1": robust_s_l1}
CALLS |= {"elimination": elimination, "elimination_order": elimination_order}
"""

TENSORS = """
import torch, fastiter, fastiter.torch

def small():
    torch.manual_seed(0)
    wx, r = torch.randn(3, 40, 4, 2, 32, requires_grad=True), torch.randn(4, 2, 32, 32)
    h, last = fastiter.torch.lstm(wx, r)
    h.square().sum().backward()
    return [x.detach().numpy().tobytes() for x in (*last, wx.grad)]

def lstm():
    wx = torch.zeros(1024).expand(8, 10_000, 4, 1, 1024)
    return lambda: fastiter.torch.lstm(wx, torch.zeros(4, 1, 1024, 1024))

def backward():
    wx, r = torch.zeros(16, 2000, 4, 1, 512), torch.zeros(4, 1, 512, 512, requires_grad=True)
    loss = fastiter.torch.lstm(wx, r)[0].sum()
    return loss.backward

def delta_scan():
    q, beta = torch.zeros(1024).expand(1, 20_000, 8, 1024), torch.zeros(1, 20_000, 8)
    v = torch.zeros(128).expand(1, 20_000, 8, 128)
    return lambda: fastiter.torch.delta_scan(q, q, v, beta)

def attention():
    q = torch.zeros(1024).expand(1, 50_000, 8, 1024)
    v = torch.zeros(128).expand(1, 50_000, 8, 128)
    return lambda: fastiter.torch.ssm.linear_attention(q, q, v)

CALLS = {"lstm": lstm, "backward": backward, "delta_scan": delta_scan, "attention": attention}
"""


def interrupted(setup: str, threads: int) -> dict[str, float]:
    """Return the seconds of each call from its interruption to its end."""
    command = [sys.executable, "-c", PROGRAM.format(setup=setup, threads=threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return {name: float(seconds) for name, seconds in map(str.split, done.stdout.splitlines())}


SERIAL = "CALLS = {name: CALLS[name] for name in ('lstm', 'delta_scan', 'robust_kl')}"


@pytest.mark.parametrize(("threads", "only"), [(1, SERIAL), (2, "")])
def test_ctrl_c_ends_calls_on_arrays(threads: int, only: str) -> None:
    took = interrupted(ARRAYS + only, threads)
    names = ["lstm", "delta_scan", "robust_kl", "robust_s_l1", "elimination", "elimination_order"]
    assert list(took) == (names[:3] if only else names)
    assert max(took.values()) < 0.5, took


def test_ctrl_c_ends_calls_on_tensors() -> None:
    pytest.importorskip("torch")
    took = interrupted(TENSORS, 2)
    assert list(took) == ["lstm", "backward", "delta_scan", "attention"]
    assert max(took.values()) < 0.5, took


HANDLER = """
import signal
import numpy as np, fastiter

rng = np.random.default_rng(0)
few, r = rng.standard_normal((2, 5, 4, 1, 256)), rng.standard_normal((4, 1, 256, 256)) / 16
expected = fastiter.lstm(few, r)[0]
calls = 0

def handler(*_):
    global calls
    calls += 1
    assert np.array_equal(fastiter.lstm(few, r)[0], expected)  # while the memory of the call is in use

signal.signal(signal.SIGALRM, handler)
steps = 50
while calls < 2 and steps < 10_000:  # a call looks at signals every tenth of a second: until it lasts that long
    calls, steps = 0, 2 * steps
    wx = np.resize(few, (4, steps, 4, 1, 256))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    found = fastiter.lstm(wx, r)[0]
    signal.setitimer(signal.ITIMER_REAL, 0)
assert np.array_equal(found, fastiter.lstm(wx, r)[0])
print(calls)
"""


def test_a_handler_runs_during_a_call() -> None:
    done = subprocess.run([sys.executable, "-c", HANDLER], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1  # if signals were not polled during the call, one handler would run, at its end
