"""accelerate on the Mamba of mambapy: both scans, the same results and gradients."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
mamba = pytest.importorskip("mambapy.mamba")

from fastiter.torch import accelerate  # noqa: E402
from tests.support.reports import restored_names  # noqa: E402

LAYERS = ["layers.0.mixer", "layers.1.mixer"]


def make(parallel: bool, dtype: Any) -> Any:
    torch.manual_seed(0)
    config = mamba.MambaConfig(d_model=16, n_layers=2, d_state=6, pscan=parallel)
    return mamba.Mamba(config).to(dtype)


def results(model: Any, dtype: Any) -> dict[str, Any]:
    x = torch.randn(2, 11, 16, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    y = model(x)
    model.zero_grad()
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return {"y": y.detach(), "x": x.grad, **{name: p.grad.clone() for name, p in model.named_parameters()}}


@pytest.mark.parametrize("parallel", [True, False])
def test_results_and_gradients(parallel: bool) -> None:
    exact = results(make(parallel, torch.float64), torch.float64)
    model = make(parallel, torch.float32)
    theirs = results(model, torch.float32)
    accelerated, report = accelerate(model, return_report=True)
    assert list(report.accelerated) == LAYERS
    assert report.accelerated[LAYERS[0]].startswith("MambaBlock, selective_scan by fastiter.torch.ssm.selective_scan")
    ours = results(accelerated, torch.float32)
    assert any(not torch.equal(ours[name], x) for name, x in theirs.items())
    for name, x in exact.items():
        bound = 3 * (theirs[name] - x).norm() + 8 * torch.finfo(torch.float32).eps * x.norm()
        assert (ours[name] - x).norm() <= bound, name
    assert restored_names(model) == LAYERS
    again = results(model, torch.float32)
    assert all(torch.equal(again[name], x) for name, x in theirs.items())


def test_few_steps_run_the_original() -> None:
    """It is faster there."""
    model = make(False, torch.float32)
    cases = [(1, 1, True), (3, 1, False), (1, 4, True), (1, 4, False), (2, 3, True)]
    inputs = [torch.randn(batch, time, 16) for batch, time, _ in cases]
    outputs = []
    for each in (model, accelerate(make(False, torch.float32))):
        outputs.append([])
        for x, (*_, with_gradients) in zip(inputs, cases, strict=True):
            with torch.set_grad_enabled(with_gradients):
                outputs[-1].append(each(x))
    assert [torch.equal(a, b) for a, b in zip(*outputs, strict=True)] == [True, True, True, False, False]


def test_steps_stay_the_same() -> None:
    model, caches = make(True, torch.float32), [(None, torch.zeros(1, 32, 3)), (None, torch.zeros(1, 32, 3))]
    x = torch.randn(1, 16)
    expected, _ = model.step(x, list(caches))
    found, _ = accelerate(model).step(x, list(caches))
    assert torch.equal(found, expected)
