"""The solvers on tensors: the same results as on arrays, by the kernels and by torch operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fastiter._call.iterate import Limits  # noqa: E402
from fastiter.fixedpoint import fixed_point  # noqa: E402
from fastiter.fixedpoint._problem import Stopping  # noqa: E402
from fastiter.fixedpoint._torch.space import TorchSpace, solve_tensors  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402

METHODS = ("anderson", "picard", "broyden", "newton_krylov", "halpern", "krasnoselskii_mann", "squarem", "aitken")


def data(dtype: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    M, b = rng.normal(size=(20, 20)), rng.normal(size=(6, 20))
    if dtype.startswith("complex"):
        M = M + 1j * rng.normal(size=(20, 20))
    return (0.6 * M / np.linalg.norm(M, 2)).astype(dtype), b.astype(dtype)


@pairs
@pytest.mark.parametrize("without_kernels", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_tensors_give_the_numbers_of_arrays(
    method: Any, dtype: str, without_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    M, b = data(dtype)
    how: dict[str, Any] = {"rtol": 1e-2 if method == "halpern" else 1e-4, "max_steps": 500}
    arrays = fixed_point(lambda x, b: x @ M + b, np.zeros_like(b), method=method, args=(b,), **how)
    if without_kernels:
        check = TorchSpace.check_leaf

        def checked(self: TorchSpace, *args: Any) -> None:
            check(self, *args)
            self.bits = 0

        monkeypatch.setattr(TorchSpace, "check_leaf", checked)
    W, c = torch.from_numpy(M), torch.from_numpy(b).requires_grad_(not dtype.startswith("complex"))
    found = solve_tensors(
        "fixed_point",
        lambda x, c: x @ W + c,
        torch.zeros_like(c),
        Stopping(Limits(**how)).checked("f"),
        method,
        args=(c,),
    )
    assert not found.value.requires_grad and found.value.dtype == W.dtype and isinstance(found.steps, torch.Tensor)
    # Both end within the tolerance; the products of torch and of NumPy round differently.
    assert np.abs(found.steps.numpy() - arrays.steps).max() <= 1
    size = np.linalg.norm(arrays.value, axis=1).max()
    assert np.abs(found.value.numpy() - arrays.value).max() <= 5 * how["rtol"] * size
    assert found.history.shape[1] == 6 and found.reason == ("converged",) * 6


def test_states_layouts_and_refusals() -> None:
    def f(state: Any) -> Any:
        return {"a": 0.5 * torch.cos(state["a"]), "b": (0.3 * state["b"].mT + 1).mT}

    x0 = {"a": torch.ones(3, 4).T.contiguous().T, "b": torch.ones(3, 2, 5).mT.contiguous().mT}
    found = solve_tensors("fixed_point", f, x0, Stopping().checked("f"))
    assert torch.allclose(found.value["b"], torch.full((3, 2, 5), 1 / 0.7)) and found.value["a"].shape == (3, 4)
    norm = solve_tensors(
        "fixed_point", torch.cos, torch.ones(3, 4), Stopping(norm=lambda x: x.abs().amax(dim=1)).checked("f")
    )
    assert torch.allclose(norm.value, torch.full((3, 4), 0.7390851), atol=1e-4)
    for wrong, message in (
        (np.ones((2, 2)), "x0 must be a tensor of .*, got numpy.ndarray"),
        (torch.ones(2, dtype=torch.int64), "x0 must be a tensor of .*, got int64"),
        (torch.ones(2, 2).to_sparse(), "x0 must be dense, got layout torch.sparse_coo"),
    ):
        with pytest.raises(TypeError, match=f"^fixed_point: {message}"):
            solve_tensors("fixed_point", torch.cos, wrong, Stopping().checked("f"))
    with pytest.raises(TypeError, match=r"f\(x\) must be a tensor of float32 like x0, got float64"):
        solve_tensors("fixed_point", lambda x: x.double(), torch.ones(2, 2), Stopping().checked("f"))
