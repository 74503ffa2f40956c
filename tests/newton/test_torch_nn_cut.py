"""ParaGRU and ParaLSTM with reset and cu_seqlens: each sequence is computed as if it were alone, in every layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

import fastiter.torch.nn  # noqa: E402

I, H, T, B = 3, 4, 9, 3
LENGTHS = [T, 0, 5]
BOUNDS = [0, 4, 4, T]
RESET = torch.rand(B, T, generator=torch.Generator().manual_seed(1)) < 0.3
RESET[0, 0] = RESET[1, T - 1] = True
layers = pytest.mark.parametrize("name", ["ParaGRU", "ParaLSTM"])


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return getattr(fastiter.torch.nn, name)(I, H, dtype=torch.float64, **options)


def randn(*shape: int) -> Any:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def parts_of(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


def state_of(layer: Any, rows: int) -> Any:
    parts = tuple(randn(rows, H) * (k + 1) for k in range(2 if "LSTM" in type(layer).__name__ else 1))
    return parts if len(parts) > 1 else parts[0]


def row_of(state: Any, row: int) -> Any:
    parts = tuple(part[row] for part in parts_of(state))
    return parts if len(parts) > 1 else parts[0]


def alone(layer: Any, x: Any, state: Any, flags: Any) -> tuple[Any, Any]:
    """Run the sequences of one row, x (T, I), one after the other."""
    outputs, starts = [x.new_zeros(0, H)], [0, *flags.nonzero().flatten().tolist(), len(x)]
    for begin, end in pairwise(starts):
        y, state = layer(x[begin:end], state if begin == 0 and not (len(flags) and flags[0]) else None)
        outputs.append(y)
    return torch.cat(outputs), state


def expected_rows(layer: Any, x: Any, state: Any, flags: Any, lengths: list[int]) -> tuple[Any, Any]:
    """Return the output (B, T, H) and the parts of the state of rows x (B, T, I)."""
    y, lasts = torch.zeros(len(x), x.shape[1], H, dtype=x.dtype), []
    for row, length in enumerate(lengths):
        first = row_of(state, row)
        y[row, :length], last = alone(layer, x[row, :length], first, flags[row, :length]) if length else (0, first)
        lasts.append(parts_of(last))
    return y, [torch.stack(part) for part in zip(*lasts, strict=True)]


def assert_close(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    for x, y in zip((found[0], *parts_of(found[1])), (expected[0], *expected[1]), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@layers
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_reset_begins_anew(name: str, lengths: list[int] | None) -> None:
    layer, turned = make(name), make(name, batch_first=True)
    x, state = randn(B, T, I), state_of(layer, B)
    expected = expected_rows(layer, x, state, RESET, lengths or [T] * B)
    assert_close(turned(x, state, lengths, reset=RESET), expected)
    y, last = layer(x.transpose(0, 1), state, lengths, reset=RESET.t())
    assert_close((y.transpose(0, 1), last), expected)
    of_all = expected_rows(layer, x, state, RESET[2:].expand(B, T), lengths or [T] * B)
    assert_close(turned(x, state, lengths, reset=RESET[2]), of_all)
    newton = make(name, batch_first=True, method="newton")
    y, last = newton(x, state, lengths, reset=RESET)
    torch.testing.assert_close(y, expected[0], rtol=1e-6, atol=1e-6)


@layers
def test_reset_in_other_inputs(name: str) -> None:
    x = randn(B, T, I)
    for batch_first in (False, True):
        layer = make(name, batch_first=batch_first)
        expected = expected_rows(layer, x, state_of(layer, B), RESET, [5, 9, 2])
        packed = pack_padded_sequence(x, [5, 9, 2], batch_first=True, enforce_sorted=False)
        y, last = layer(packed, state_of(layer, B), reset=RESET if batch_first else RESET.t())
        assert_close((pad_packed_sequence(y, batch_first=True)[0], last), expected)
    y, last = layer(x[0], row_of(state_of(layer, B), 0), reset=RESET[0])
    y_alone, last_alone = alone(layer, x[0], row_of(state_of(layer, B), 0), RESET[0])
    assert_close((y, last), (y_alone, parts_of(last_alone)))


@layers
def test_concatenated_sequences(name: str) -> None:
    for batch_first in (False, True):
        layer = make(name, batch_first=batch_first)
        x, state = randn(T, I), state_of(layer, len(BOUNDS) - 1)
        for flags in (None, RESET[0]):
            cut = RESET[0] if flags is not None else torch.zeros(T, dtype=torch.bool)
            outputs, lasts = [], []
            for row, (begin, end) in enumerate(pairwise(BOUNDS)):
                y, last = alone(layer, x[begin:end], row_of(state, row), cut[begin:end])
                outputs.append(y)
                lasts.append(parts_of(last if end > begin else row_of(state, row)))
            expected = torch.cat(outputs), [torch.stack(part) for part in zip(*lasts, strict=True)]
            for bounds in (BOUNDS, torch.tensor(BOUNDS)):
                assert_close(layer(x, state, reset=flags, cu_seqlens=bounds), expected)


@layers
@pytest.mark.parametrize(
    "cut", [{"reset": RESET[0]}, {"cu_seqlens": BOUNDS}, {"cu_seqlens": BOUNDS, "reset": RESET[2]}]
)
def test_gradients(name: str, cut: dict[str, Any]) -> None:
    layer = make(name)
    weights = tuple(p.detach().requires_grad_() for p in layer.parameters())
    names = [key for key, _ in layer.named_parameters()]
    first = parts_of(row_of(state_of(layer, 3), slice(None)) if "cu_seqlens" in cut else row_of(state_of(layer, 3), 0))

    def run(x: Any, *others: Any) -> Any:
        parts = others[len(names) :]
        state = parts if len(parts) > 1 else parts[0]
        y, last = torch.func.functional_call(layer, dict(zip(names, others, strict=False)), (x, state), cut)
        return (y, *parts_of(last))

    given = (randn(T, I).requires_grad_(), *weights, *(part.clone().requires_grad_() for part in first))
    assert torch.autograd.gradcheck(run, given)


WRONG: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a batch": (
        "input must have 2 dimensions (M, I) if cu_seqlens is given, got (9, 3, 3)",
        lambda f: f(randn(T, B, I), cu_seqlens=BOUNDS),
    ),
    "both": (
        "lengths must be None if cu_seqlens is given, got both",
        lambda f: f(randn(T, I), None, [T], cu_seqlens=BOUNDS),
    ),
    "short bounds": ("cu_seqlens must rise from 0 to T = 9, got 0 to 4", lambda f: f(randn(T, I), cu_seqlens=[0, 4])),
    "a packed input": (
        "cu_seqlens must be None for a PackedSequence, got cu_seqlens",
        lambda f: f(pack_padded_sequence(randn(T, B, I), [T] * B), cu_seqlens=BOUNDS),
    ),
    "rows first": (
        "reset must have shape (T, B) = (9, 3) or (T,), got (3, 9)",
        lambda f: f(randn(T, B, I), reset=RESET),
    ),
    "ints": (
        "reset must be a torch.Tensor of bool, got dtype torch.int64",
        lambda f: f(randn(T, B, I), reset=RESET.t().long()),
    ),
}


@layers
@pytest.mark.parametrize("case", WRONG)
def test_refusals(name: str, case: str) -> None:
    message, call = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=re.escape(f"{name}: {message}")) as raised:
        call(make(name))
    assert str(raised.value) == f"{name}: {message}"
