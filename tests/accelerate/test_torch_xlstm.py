"""accelerate and sLSTMBlock on the blocks of the package xlstm, whose mLSTM is quadratic in the number of steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
blocks = pytest.importorskip("xlstm")

from fastiter.torch import accelerate  # noqa: E402
from fastiter.torch.nn import sLSTMBlock  # noqa: E402
from tests.support.reports import restored_names  # noqa: E402


def make(longest: int = 24) -> Any:
    """Return an mLSTM block and an sLSTM block of width 16 in float64, with random weights."""
    torch.manual_seed(0)
    mlstm = blocks.mLSTMLayerConfig(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=2)
    slstm = blocks.sLSTMLayerConfig(backend="vanilla", num_heads=2, conv1d_kernel_size=4)
    config = blocks.xLSTMBlockStackConfig(
        mlstm_block=blocks.mLSTMBlockConfig(mlstm=mlstm),
        slstm_block=blocks.sLSTMBlockConfig(slstm=slstm, feedforward=blocks.FeedForwardConfig(proj_factor=1.3)),
        context_length=longest,
        num_blocks=2,
        embedding_dim=16,
        slstm_at=[1],
    )
    model = blocks.xLSTMBlockStack(config).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3 if p.dim() == 1 else p.shape[-1] ** -0.5)
    return model


def results(model: Any, time: int) -> list[Any]:
    """Return the output of a sequence, its gradients, and outputs and states of steps."""
    x = torch.randn(2, time, 16, generator=torch.Generator().manual_seed(time), dtype=torch.float64)
    y = model(x)
    found, state = [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()))], None
    with torch.no_grad():
        for t in range(3):
            h, state = model.step(x[:, t : t + 1], state=state)
            found.append(h)
    return [*found, *state["block_0"]["mlstm_state"]]


def test_blocks_of_xlstm() -> None:
    expected = [results(make(), time) for time in (24, 11)]
    model, report = accelerate(make(), return_report=True)
    both = "backend_fn by fastiter.torch.ssm.mlstm, backend_fn_step by fastiter.torch.ssm.mlstm"
    assert report.accelerated["blocks.0.xlstm.mlstm_cell"] == f"mLSTMCell, {both}" and not report.left
    for copied in (model, copy.deepcopy(model)):  # xlstm's own models cannot be unpickled
        found = [results(copied, time) for time in (24, 11)]
        assert not torch.equal(found[0][0], expected[0][0])
        for a, e in zip(*([x for part in both for x in part] for both in (found, expected)), strict=True):
            torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)
    assert sorted(restored_names(model)) == ["blocks.0.xlstm.mlstm_cell", "blocks.1.xlstm.slstm_cell"]
    again = results(model, 24)
    assert all(torch.equal(a, e) for a, e in zip(again, expected[0], strict=True))


def test_other_stabilisers_are_left_unchanged() -> None:
    cell = accelerate(make()).blocks[0].xlstm.mlstm_cell
    q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
    gates = {"igate_preact": torch.randn(1, 2, 5, 1), "fgate_preact": torch.randn(1, 2, 5, 1)}
    given = {"queries": q, "keys": k, "values": v, **gates, "eps": 0.1}
    by_rows, by_matrix = (cell.backend_fn(**given, stabilize_rowwise=x) for x in (True, False))
    assert (by_rows - by_matrix).norm() > 1e-3 * by_rows.norm()
    assert torch.equal(by_matrix, cell.__dict__["backend_fn"](**given, stabilize_rowwise=False))


def test_slstm_block_in_a_stack() -> None:
    """An sLSTMBlock in place of a stack's block: values, steps, gradients, checkpoints in both directions."""
    theirs, ours, again = make(), make(), make()
    ours.blocks[1] = sLSTMBlock.from_xlstm(ours.blocks[1])
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(1.1)
    ours.load_state_dict(theirs.state_dict())
    for a, e in zip(results(ours, 24), results(theirs, 24), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)
    again.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, e) for a, e in zip(results(again, 24), results(theirs, 24), strict=True))
