"""The delta rule and state-space models on sharded steps: the results and gradients of one process."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.delta._torch import distributed, functional  # noqa: E402
from tests.distributed.ranks import refusals, results  # noqa: E402
from tests.distributed.sequences import matrix_jobs  # noqa: E402


@pytest.mark.parametrize(("size", "name"), [(3 + at % 2, name) for at, name in enumerate(matrix_jobs.MAKERS)])
def test_equal_one_process(size: int, name: str) -> None:
    assert results(matrix_jobs.equal_one_process, size, name) == [len(matrix_jobs.MAKERS[name]) * 4 * 2 * 2] * size


def test_mlstm_equals_one_process() -> None:
    results(matrix_jobs.mlstm, 3)


@pytest.mark.parametrize("exchange", ["pipeline", "scan"])
def test_bytes_do_not_depend_on_the_length(exchange: str) -> None:
    assert results(matrix_jobs.traffic, 3, 5, exchange) == results(matrix_jobs.traffic, 3, 500, exchange)


def test_sixteen_bits_and_chunks() -> None:
    results(matrix_jobs.sixteen_bits_and_chunks, 3)


@pytest.mark.parametrize("exchange", ["pipeline", "scan"])
def test_packed_states_of_sixteen_bits(exchange: str) -> None:
    results(matrix_jobs.packed_states_of_sixteen_bits, 3, exchange)


def test_autocast() -> None:
    results(matrix_jobs.autocast, 4)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("k", r"linear_attention: k must have shape \(B, T, H, K\) = \(1, 5, 3, 4\) like q, got \(1, 5, 3, 3\)"),
        ("packed k", r"linear_attention: k must have shape .* like q, got \(1, 5, 3, 3\)"),
        ("beta", r"delta_scan: beta must have shape \(B, T, N\) = \(1, 5, 3\) .* got \(1, 5, 3, 5\)"),
    ],
)
def test_messages_quote_the_shapes_that_were_given(what: str, message: str) -> None:
    for one in refusals(matrix_jobs.refused, 2, what):
        with pytest.raises(ValueError, match=f"^{message}$"):
            raise one


def test_infinite_rates() -> None:
    results(matrix_jobs.infinite_rates, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_product_of_the_delta_rule_has_the_dtype_of_states(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """16-bit inputs, which only GPU kernels support, have a float32 state; the kernels refuse any other."""
    states: list[Any] = []

    def local(q: Any, k: Any, v: Any, beta: Any, state: Any, **how: Any) -> tuple[Any, Any]:
        states.append(state)
        return v, state

    monkeypatch.setattr(functional, "delta_scan", local)
    q, beta = torch.zeros(1, 2, 3, 4, dtype=dtype), torch.zeros(1, 2, 3, dtype=dtype)
    tensors = {"q": q, "k": q, "v": q, "beta": beta, "decay": None}
    distributed._product(tensors, None, {"reverse": False})
    assert states[0].dtype == (torch.float32 if dtype.itemsize == 2 else dtype)
