"""The recurrent cells under autograd: what is allowed between a call and its backward pass, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from tests.rnn.calls import both_dtypes, both_ways, every_cell, full_and_ragged, some_lengths  # noqa: E402
from tests.rnn.torch_calls import Leaves, leaves, numpy, run  # noqa: E402
from tests.support.cases import RNN_CELLS, STATES, assert_same_bits, rnn_inputs  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

# Shared by units, by rows, by heads and rows; r's gradient is large enough to be shared too.
SHARED_SIZES = [(1, 9, 1, 256), (16, 9, 1, 64), (13, 5, 3, 33), (2, 7, 2, 130)]


def backward(cell: str, activation: str, given: Leaves, **how: Any) -> tuple[Any, Any]:
    """Return outputs, and gradients from the outputs as cotangents."""
    h, last, states = run(cell, activation, given, **how)
    outputs = [h, *last, *states[1:]]
    gradients = torch.autograd.grad(outputs, given.all(), [y.detach() for y in outputs])
    return numpy(outputs), numpy(gradients)


# --- the same bits ---------------------------------------------------------------------------------------------------


@pairs
@full_and_ragged
@both_ways
@both_dtypes
@every_cell
def test_any_number_of_threads(cell: str, activation: str, dtype: Any, reverse: bool, ragged: bool) -> None:
    for B, T, N, D in SHARED_SIZES:
        given = leaves(rnn_inputs(cell, B, T, N, D, dtype))
        how = {"reverse": reverse, "lengths": some_lengths(B, T) if ragged else None}
        fastiter.set_num_threads(1)
        expected = backward(cell, activation, given, **how)
        for threads in (2, 5):
            fastiter.set_num_threads(threads)
            assert_same_bits(backward(cell, activation, given, **how), expected, f"{(B, T, N, D)}, {threads} threads")


@pytest.mark.parametrize(("of_torch", "of_fastiter"), [(1, 2), (2, 1), (3, 2), (2, 5)])
def test_torch_may_use_other_threads(of_torch: int, of_fastiter: int) -> None:
    before = torch.get_num_threads()
    x = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    given = leaves(rnn_inputs("lstm", 16, 9, 1, 64, np.float32))
    expected = backward("lstm", "", given)
    try:
        torch.set_num_threads(of_torch)
        fastiter.set_num_threads(of_fastiter)
        for _ in range(5):
            x = torch.tanh(x @ x)  # keeps torch's threads spinning
            assert_same_bits(backward("lstm", "", given), expected)
        assert torch.get_num_threads() == of_torch
        assert fastiter.get_num_threads() == of_fastiter
        fastiter.set_num_threads(None)
        assert fastiter.get_num_threads() == of_torch
    finally:
        torch.set_num_threads(before)


def test_many_python_threads_at_once() -> None:
    jobs = []
    for (cell, activation), size in zip(RNN_CELLS, SHARED_SIZES * 2, strict=False):
        inputs = rnn_inputs(cell, *size, np.float32)
        jobs.append((cell, activation, inputs, backward(cell, activation, leaves(inputs))))

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for i in rng.integers(0, len(jobs), 10):
            cell, activation, inputs, expected = jobs[i]
            fastiter.set_num_threads(int(rng.integers(1, 4)))
            assert_same_bits(backward(cell, activation, leaves(inputs)), expected)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(work, range(4)))


@every_cell
def test_backward_twice_is_the_same(cell: str, activation: str) -> None:
    given = leaves(rnn_inputs(cell, 5, 6, 2, 17, np.float32))
    h, last, states = run(cell, activation, given)
    outputs = [h, *last, *states[1:]]
    cotangents = [y.detach().clone() for y in outputs]
    first = torch.autograd.grad(outputs, given.all(), cotangents, retain_graph=True)
    second = torch.autograd.grad(outputs, given.all(), cotangents)
    assert_same_bits(numpy(second), numpy(first))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(outputs, given.all(), cotangents)


# --- nothing is modified ---------------------------------------------------------------------------------------------


@every_cell
def test_inputs_and_cotangents_are_not_modified(cell: str, activation: str) -> None:
    given, lengths = leaves(rnn_inputs(cell, 3, 5, 2, 17, np.float32)), torch.tensor([5, 0, 3])
    h, last, states = run(cell, activation, given, lengths=lengths)
    outputs = [h, *last, *states[1:]]
    cotangents = [torch.randn_like(y) for y in outputs]
    arguments = [*given.all(), lengths, *outputs, *cotangents]
    before = [(x.detach().clone(), x._version) for x in arguments]
    torch.autograd.grad(outputs, given.all(), cotangents)
    for x, (values, version) in zip(arguments, before, strict=True):
        assert_same_bits(numpy(x), numpy(values))
        assert x._version == version


@every_cell
def test_outputs_share_no_memory_with_inputs(cell: str, activation: str) -> None:
    for T in (0, 1, 4):
        given = leaves(rnn_inputs(cell, 3, T, 2, 5, np.float32))
        h, last, states = run(cell, activation, given, lengths=[0, min(T, 1), T])
        inputs = {x.untyped_storage().data_ptr() for x in given.all()} - {0}
        outputs = {x.untyped_storage().data_ptr() for x in (h, *last, *states)}
        assert not inputs & outputs


# --- modified in between ---------------------------------------------------------------------------------------------


def after_change(cell: str, activation: str, change: Callable[[Leaves, Any], None]) -> tuple[str, bool]:
    """Return the error of a backward pass after the change, else whether the gradients are unchanged."""
    given, lengths = leaves(rnn_inputs(cell, 3, 4, 2, 5, np.float64)), torch.tensor([4, 1, 3])
    outputs = run(cell, activation, given, lengths=lengths)
    h, last, _ = outputs
    total = h.sum() + sum((k + 2) * s.sum() for k, s in enumerate(last))
    expected = torch.autograd.grad(total, given.all(), retain_graph=True)
    try:
        with torch.no_grad():
            change(given, (lengths, *outputs))
        gradients = torch.autograd.grad(total, given.all())
    except RuntimeError as error:
        return str(error), False
    return "", all(torch.equal(g, e) for g, e in zip(gradients, expected, strict=True))


CHANGES: dict[str, Callable[[Leaves, Any], None]] = {
    "wx": lambda given, _: given.wx.mul_(3),
    "r": lambda given, _: given.r.mul_(3),
    "b": lambda given, _: given.b.mul_(3),
    "state": lambda given, _: given.state[0].mul_(3),
    "last state": lambda given, _: given.state[-1].mul_(3),
    "h": lambda _, outputs: outputs[1].mul_(3),
    "h in part": lambda _, outputs: outputs[1][0, 1, 0, 2:].zero_(),
    "h by a detached view": lambda _, outputs: outputs[1].detach().mul_(3),
    "h by numpy's copy": lambda _, outputs: outputs[1].detach().clone().mul_(3),
    "states of all steps": lambda _, outputs: outputs[3][-1].mul_(3),
    "final state": lambda _, outputs: outputs[2][-1].detach().mul_(3),
    "lengths": lambda _, outputs: outputs[0].fill_(2),
}


@pytest.mark.parametrize("what", CHANGES)
@every_cell
def test_a_change_between_forward_and_backward_is_harmless_or_an_error(cell: str, activation: str, what: str) -> None:
    error, right = after_change(cell, activation, CHANGES[what])
    if what.startswith("h") or what in ("states of all steps", "final state", "lengths"):  # the caller's own
        assert right, error
    assert right or "modified by an inplace operation" in error or "modified inplace" in error, error


def test_lengths_as_an_array_may_change_after_the_call() -> None:
    given, lengths = leaves(rnn_inputs("gru", 3, 4, 2, 5, np.float64)), np.array([4, 1, 3])
    expected = torch.autograd.grad(run("gru", "", given, lengths=lengths)[0].sum(), given.all())
    total = run("gru", "", given, lengths=lengths)[0].sum()
    lengths[:] = 2
    assert_same_bits(numpy(torch.autograd.grad(total, given.all())), numpy(expected))


@every_cell
def test_h_changed_inside_of_the_graph(cell: str, activation: str) -> None:
    given = leaves(rnn_inputs(cell, 3, 4, 2, 5, np.float64))
    expected = torch.autograd.grad(3 * run(cell, activation, given)[0].sum(), given.all())
    h, _ = getattr(fastiter.torch, cell)(*given, **({"activation": activation} if activation else {}))
    assert_same_bits(numpy(torch.autograd.grad(h.mul_(3).sum(), given.all())), numpy(expected))


@every_cell
def test_final_states_may_be_changed_and_detached_in_place(cell: str, activation: str) -> None:
    given = leaves(rnn_inputs(cell, 3, 4, 2, 5, np.float64))
    _, last, _ = run(cell, activation, given)
    values = [s.detach().clone() for s in last]
    expected = torch.autograd.grad(sum((k + 2) * s.sum() for k, s in enumerate(last)), given.all())
    _, last, _ = run(cell, activation, given)
    for k, s in enumerate(last):
        s.mul_(k + 2)
        assert all(torch.equal(other, v) for other, v in zip(last[k + 1 :], values[k + 1 :], strict=True))
    for g, e in zip(torch.autograd.grad(sum(s.sum() for s in last), given.all()), expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-13)
    h, last, _ = run(cell, activation, given)
    assert [s.detach_().requires_grad for s in last] == [False] * len(last)
    assert h.requires_grad


# --- other kinds of derivatives: right, or refused -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
def test_forward_mode_is_right_or_refused() -> None:
    wx, r, *_ = leaves(rnn_inputs("gru", 2, 3, 1, 4, np.float64))
    wx, r = wx.detach(), r.detach()
    direction = torch.randn(wx.shape, dtype=wx.dtype, generator=torch.Generator().manual_seed(0))
    eps = 1e-6
    plus, minus = (fastiter.torch.gru(wx + s * eps * direction, r)[0] for s in (1, -1))

    def with_tangent() -> Any:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(wx, direction)
            return torch.autograd.forward_ad.unpack_dual(fastiter.torch.gru(dual, r)[0]).tangent

    for tangent in (
        with_tangent,
        lambda: torch.func.jvp(lambda x: fastiter.torch.gru(x, r)[0], (wx,), (direction,))[1],
    ):
        try:
            result = tangent()
        except (RuntimeError, NotImplementedError):
            continue
        assert result is not None, "the derivative was dropped"
        torch.testing.assert_close(result, (plus - minus) / (2 * eps), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("transform", ["grad", "vjp", "jacrev", "vmap"])
def test_torch_func_is_right_or_refused(transform: str) -> None:
    wx, r, *_ = leaves(rnn_inputs("gru", 2, 3, 1, 4, np.float64))
    wx = wx.detach()

    def total(x: Any) -> Any:
        return fastiter.torch.gru(x, r.detach())[0].sum()

    attempts = {
        "grad": lambda: torch.func.grad(total)(wx),
        "vjp": lambda: torch.func.vjp(total, wx)[1](torch.ones((), dtype=wx.dtype))[0],
        "jacrev": lambda: torch.func.jacrev(total)(wx),
        "vmap": lambda: torch.func.vmap(total)(wx[None])[0],
    }
    leaf = wx.clone().requires_grad_()
    expected = total(wx) if transform == "vmap" else torch.autograd.grad(total(leaf), leaf)[0]
    try:
        result = attempts[transform]()
    except (RuntimeError, NotImplementedError):
        return
    torch.testing.assert_close(result, expected)


@every_cell
def test_checkpoints_anomaly_detection_and_saved_tensor_hooks(cell: str, activation: str) -> None:
    from torch.utils.checkpoint import checkpoint

    def final_states(*x: Any) -> Any:
        return run(cell, activation, Leaves(x[0], x[1], x[2], x[3:]))[1]

    def gradients(function: Callable[..., Any]) -> Any:
        given = leaves(rnn_inputs(cell, 3, 4, 2, 5, np.float64))
        sum((k + 2) * s.sum() for k, s in enumerate(function(*given.all()))).backward()
        return numpy([x.grad for x in given.all()])

    expected = gradients(final_states)
    for reentrant in (False, True):
        assert_same_bits(gradients(lambda *x, r=reentrant: checkpoint(final_states, *x, use_reentrant=r)), expected)
    with torch.autograd.graph.save_on_cpu(), torch.autograd.set_detect_anomaly(True):
        assert_same_bits(gradients(final_states), expected)


def test_only_inputs_that_require_a_gradient_are_recorded() -> None:
    given = leaves(rnn_inputs("lstm", 2, 3, 1, 4, np.float64))
    constant = Leaves(given.wx.detach(), given.r.detach(), given.b.detach(), tuple(s.detach() for s in given.state))
    h, last, states = run("lstm", "", constant)
    assert not any(y.requires_grad for y in (h, *last, *states))
    with torch.inference_mode():
        inferred = run("lstm", "", given)
    assert_same_bits(numpy(inferred), numpy((h, last, states)))
    h, last, states = run("lstm", "", constant._replace(b=given.b))
    assert all(y.requires_grad and not y.is_leaf for y in (h, *last, *states))


# --- the outputs are tensors like any others -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 1, 4), (16, 70, 4, 64)], ids=["small", "large"])  # large: memory is reused
def test_outputs_keep_their_values_and_can_be_copied_saved_and_resized(shape: tuple[int, int, int, int]) -> None:
    given = leaves(rnn_inputs("lstm", *shape, np.float32))
    with torch.no_grad():
        results = [run("lstm", "", given._replace(wx=given.wx * k))[0] for k in range(4)]
        again = [run("lstm", "", given._replace(wx=given.wx * k))[0] for k in range(4)]
    for h, expected in zip(results, again, strict=True):
        assert_same_bits(numpy(h), numpy(expected))
    h, expected = results[1], numpy(again[1])
    for same in (copy.deepcopy(h), pickle.loads(pickle.dumps(h)), h.clone().share_memory_(), h.numpy(), h.detach()):
        assert_same_bits(np.asarray(same), expected)
    view = h[1:, ::2]
    del results, h
    for k in range(3):
        run("lstm", "", given._replace(wx=given.wx * k))
    assert_same_bits(numpy(view), expected[1:, ::2])
    view.add_(1)
    assert_same_bits(numpy(view), expected[1:, ::2] + np.float32(1))


@every_cell
def test_every_element_is_written(cell: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(on: bool) -> None:
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", on)
        torch.use_deterministic_algorithms(on)

    for B, T, N, D in ((3, 5, 2, 17), (7, 2, 1, 33), (2, 0, 1, 3), (1, 4, 3, 1)):
        for lengths in (None, some_lengths(B, T), [0] * B):
            for time_major in (False, True):
                given = leaves(rnn_inputs(cell, B, T, N, D, np.float32), time_major)
                expected = backward(cell, activation, given, lengths=lengths)
                try:
                    fill(True)
                    assert torch.empty(3).isnan().all()
                    assert_same_bits(backward(cell, activation, given, lengths=lengths), expected)
                finally:
                    fill(False)


def test_states_feed_the_next_call_through_autograd() -> None:
    for cell, activation in RNN_CELLS:
        given = leaves(rnn_inputs(cell, 3, 6, 2, 5, np.float64))
        _, whole, _ = run(cell, activation, given)
        state = given.state
        for part in (slice(0, 2), slice(2, 6)):
            _, state, _ = run(cell, activation, given._replace(wx=given.wx[:, part], state=state))
        assert_same_bits(numpy(state), numpy(whole))
        assert len(state) == len(STATES[cell])
        expected = torch.autograd.grad(sum(s.sum() for s in whole), given.all())
        for g, e in zip(torch.autograd.grad(sum(s.sum() for s in state), given.all()), expected, strict=True):
            torch.testing.assert_close(g, e, rtol=1e-12, atol=1e-13)
