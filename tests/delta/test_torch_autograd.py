"""delta_scan under autograd: what is allowed between a call and its backward pass, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
import fastiter.torch  # noqa: E402
from tests.delta.calls import delta_inputs, every_method  # noqa: E402
from tests.delta.torch_calls import NAMES, backward, leaves, numpy, run  # noqa: E402
from tests.rnn.calls import some_lengths  # noqa: E402
from tests.support.cases import assert_same_bits  # noqa: E402


def test_states_feed_the_next_call_through_autograd() -> None:
    inputs = delta_inputs(2, 12, 2, 5, 7)
    given = leaves(inputs)
    o, last = run(given)
    expected = torch.autograd.grad(o.sum() + last.sum(), given)
    state, total = given[4], 0
    for steps in (slice(0, 5), slice(5, 12)):
        o, state = run([state if i == 4 else x[:, steps] for i, x in enumerate(given)])
        total = total + o.sum()
    for a, e in zip(torch.autograd.grad(total + state.sum(), given), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself calls it
def test_forward_mode_is_refused() -> None:
    given = [x.detach() for x in leaves(delta_inputs(2, 3, 1, 2, 2))]
    with torch.autograd.forward_ad.dual_level():
        given[0] = torch.autograd.forward_ad.make_dual(given[0], torch.ones_like(given[0]))
        with pytest.raises((RuntimeError, NotImplementedError)):
            run(given)


CHANGES: dict[str, Callable[[list[Any], dict[str, Any], tuple[Any, Any]], Any]] = {
    **{name: lambda given, how, outputs, i=i: given[i].mul_(3) for i, name in enumerate(NAMES)},
    "lengths": lambda given, how, outputs: how["lengths"].fill_(1),
    "reset": lambda given, how, outputs: how["reset"].logical_not_(),
    "o": lambda given, how, outputs: outputs[0].mul_(3),
    "last": lambda given, how, outputs: outputs[1].detach().mul_(3),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_between_forward_and_backward_is_harmless_or_an_error(what: str) -> None:
    given = leaves(delta_inputs(2, 9, 2, 3, 4))
    how = {"lengths": torch.tensor([9, 5]), "reset": torch.arange(9) == 4}

    def call() -> tuple[Any, Any]:
        return fastiter.torch.delta_scan(*given[:5], decay=given[5], **how)

    expected = torch.autograd.grad(sum(y.sum() for y in call()), given)
    outputs = call()
    total = outputs[0].sum() + outputs[1].sum()
    with torch.no_grad():
        CHANGES[what](given, how, outputs)
    if what in ("v", "lengths", "o", "last"):  # no longer needed, or copied
        assert_same_bits(numpy(torch.autograd.grad(total, given)), numpy(expected))
        return
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(total, given)


def test_only_inputs_that_require_a_gradient_are_recorded() -> None:
    given = leaves(delta_inputs(2, 9, 2, 3, 4))
    constant = [x.detach() for x in given]
    assert not any(y.requires_grad for y in run(constant))
    with torch.inference_mode():
        inferred = run(given)
    assert_same_bits(numpy(inferred), numpy(run(constant)))
    for place in range(6):
        assert all(y.requires_grad for y in run([*constant[:place], given[place], *constant[place + 1 :]]))


def test_checkpoints_and_saved_tensor_hooks() -> None:
    from torch.utils.checkpoint import checkpoint

    def gradients(function: Callable[..., Any]) -> tuple[Any, ...]:
        given = leaves(delta_inputs(2, 9, 2, 3, 4))
        sum((i + 2) * y.sum() for i, y in enumerate(function(*given))).backward()
        return tuple(x.grad.numpy() for x in given)

    expected = gradients(lambda *x: run(x))
    for reentrant in (False, True):
        actual = gradients(lambda *x, r=reentrant: checkpoint(lambda *y: run(y), *x, use_reentrant=r))
        assert_same_bits(actual, expected)
    with torch.autograd.graph.save_on_cpu(), torch.autograd.set_detect_anomaly(True):
        assert_same_bits(gradients(lambda *x: run(x)), expected)


@every_method
def test_every_element_is_written(method: Any, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(on: bool) -> None:
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", on)
        torch.use_deterministic_algorithms(on)

    for (B, T, N, K, V), threads in itertools.product(((3, 20, 2, 7, 17), (1, 70, 1, 9, 200), (2, 0, 1, 3, 3)), (1, 3)):
        inputs = delta_inputs(B, T, N, K, V)
        how: dict[str, Any] = {"method": method, "chunk": chunk, "lengths": some_lengths(B, T)}
        fastiter.set_num_threads(threads)
        expected = backward(inputs, **how)
        try:
            fill(True)
            assert_same_bits(backward(inputs, **how), expected)
        finally:
            fill(False)
