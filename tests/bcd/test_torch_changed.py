"""Problems whose tensors are modified in place, as by an optimizer step: the old values are not solved again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy.sparse")
from torch import Tensor  # noqa: E402

from fastiter.torch.bcd import LeastSquares, Logistic, Softmax, bcd  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CS. tensor support is in beta state")
PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda A: A.clone(),
    "columns": lambda A: A.mT.contiguous().mT,
    "csr": lambda A: A.to_sparse_csr(),
    "csc": lambda A: A.to_sparse_csc(),
}


def given(kind: str) -> dict[str, Any]:
    A = torch.linspace(-1, 1, 18).sin().mul(7).cos().reshape(6, 3)
    return {
        "A": PLACES[kind](A),
        "b": torch.linspace(-2, 1, 6),
        "y": torch.tensor([0, 1, 1, 0, 1, 0]),
        "l1": torch.tensor(0.1, requires_grad=True),
        "weights": torch.ones(6),
        "lower": torch.full((3,), -0.2),
    }


MAKE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "squares": lambda x: LeastSquares(x["A"], x["b"], l1=x["l1"], weights=x["weights"], lower=x["lower"]),
    "logistic": lambda x: Logistic(x["A"], x["y"], l1=x["l1"], weights=x["weights"], lower=x["lower"]),
    "softmax": lambda x: Softmax(x["A"], x["y"], 2, l1=x["l1"], weights=x["weights"], lower=x["lower"]),
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("loss", MAKE)
@pytest.mark.filterwarnings("ignore:bcd. . coordinate:UserWarning")
def test_a_change_in_place_is_refused(loss: str, kind: str) -> None:
    for name in ("A", "b" if loss == "squares" else "y", "l1", "weights", "lower"):
        x = given(kind)
        problem = MAKE[loss](x)
        first = bcd(problem).value
        assert torch.equal(bcd(problem).value, first)
        with torch.no_grad():
            (x["A"].values() if name == "A" and kind.startswith("cs") else x[name]).mul_(2)
        with pytest.raises(ValueError, match=f"^bcd: {name} must not change after the problem was made"):
            bcd(problem)
        if name != "y":
            bcd(MAKE[loss](x))


def test_copies_have_their_own_versions() -> None:
    x = given("rows")
    x["b"].mul_(1)
    problem = LeastSquares(x["A"], x["b"])
    copied = copy.deepcopy(problem)
    x["b"].mul_(2)
    with pytest.raises(ValueError, match=r"^bcd: b must not change"):
        bcd(problem)
    torch.testing.assert_close(bcd(copied).value, bcd(LeastSquares(x["A"], x["b"] / 2)).value)
