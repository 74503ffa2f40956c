"""Agreement on arguments, messages, prefixes and faults on two to four ranks."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")

from fastiter import BackendError
from fastiter._torch.distributed.collectives import Ranks
from tests.distributed import collective_jobs
from tests.distributed.ranks import outcomes, refusals, results


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("reverse", [False, True])
def test_prefix_takes_a_logarithm_of_rounds(size: int, reverse: bool) -> None:
    found = results(collective_jobs.prefix, size, reverse)
    assert all(right for right, *_ in found)
    assert max(rounds for _, _, rounds, _ in found) == math.ceil(math.log2(size))
    bytes_in_message = 2 * 2 * 8 + 16  # padding of the second tensor
    for _, position, _, sent in found:
        messages = sum(position + 2**i < size for i in range(2))
        assert sent == messages * bytes_in_message


def test_messages_of_several_dtypes() -> None:
    assert results(collective_jobs.neighbours, 3) == [True] * 3


def test_agreement_exchanges_steps_and_needs() -> None:
    """One of three ranks needs a gradient, and one does not forget: it computes gradients and cannot speculate."""
    assert results(collective_jobs.agree, 3, {}, 0, None) == [((7, 8, 9), True, False)] * 3
    assert results(collective_jobs.agree, 2, {}, 0, None) == [((7, 8), True, True)] * 2


@pytest.mark.parametrize(
    ("differing", "message"),
    [
        ({"x": "float64"}, "f: x must be the same on every rank, got float32 on rank 0 and float64 on rank 2"),
        ({"a": "(3,)"}, r"f: a must be the same on every rank, got nothing on rank 0 and \(3,\) on rank 2"),
    ],
)
def test_differing_arguments_are_named_on_every_rank(differing: dict[str, str], message: str) -> None:
    for one in refusals(collective_jobs.agree, 3, differing, 2, None):
        with pytest.raises(ValueError, match=f"^{message}$"):
            raise one


def test_a_refusal_is_named_on_every_rank() -> None:
    first, second, third = refusals(collective_jobs.agree, 3, {}, 1, TypeError("f: x must be a torch.Tensor, got int"))
    assert isinstance(second, TypeError) and str(second) == "f: x must be a torch.Tensor, got int"
    for one in (first, third):
        with pytest.raises(
            ValueError, match=r"^f: rank 1 refused its arguments: f: x must be a torch.Tensor, got int$"
        ):
            raise one


def test_groups() -> None:
    found = results(collective_jobs.groups, 3)
    assert [row[0] for row in found] == [f"{rank} of 3: (0, 1, 2)" for rank in range(3)]
    assert {row[1] for row in found} == {"f: group must be a DeviceMesh with 1 axis, got one with 2 axes"}
    assert [row[2] for row in found] == [
        "f: group must contain this rank, got a group without it",
        *(f"{rank} of 2: (0, 1)" for rank in range(2)),
    ]
    assert {row[3] for row in found} == {"f: group must be a ProcessGroup, a DeviceMesh or None, got str"}


def test_a_group_is_necessary() -> None:
    with pytest.raises(RuntimeError, match=r"^f: torch.distributed must be initialized, call init_process_group"):
        Ranks("f", None)


def test_a_group_without_a_backend_for_the_tensors_is_named() -> None:
    for one in outcomes(collective_jobs.without_cpu, 2, "cuda:nccl"):
        message = "^linear_scan: group must have a backend for tensors on cpu, got one with cuda:nccl$"
        with pytest.raises(BackendError, match=message):
            raise one.error or AssertionError(one)
