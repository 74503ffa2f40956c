"""The cells of the package tirex: those of xlstm_like compute the same bits, and replaced ones nearly all of them."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
cells = pytest.importorskip("tirex.models.slstm.cell")
block = pytest.importorskip("tirex.models.slstm.block")

from fastiter.torch import replace  # noqa: E402
from tests.rnn.nn.cases_nn import randn  # noqa: E402
from tests.rnn.replace.xlstm_like import TirexCell, TirexConfig  # noqa: E402
from tests.support.reports import report_of  # noqa: E402


def cell_of(width: int, heads: int) -> Any:
    cell = cells.sLSTMCell(cells.sLSTMBlockConfig(width, heads), "torch")
    torch.nn.init.normal_(cell._recurrent_kernel_, std=math.sqrt(heads / width))
    torch.nn.init.normal_(cell._bias_)
    return cell


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cells(dtype: torch.dtype) -> None:
    """The loops round in the same places: from zeros and from other states, in each dtype of the parameters."""
    theirs = cell_of(24, 3).to(dtype)
    alike = TirexCell(TirexConfig(24, 3)).to(dtype)
    alike.load_state_dict(theirs.state_dict())
    x = randn(2, 7, 96, dtype=dtype)
    state = theirs(x, None)[1].detach()
    for found, expected in zip((*alike(x, None), *alike(x, state)), (*theirs(x, None), *theirs(x, state)), strict=True):
        assert found.equal(expected) and found.dtype == dtype


@torch.no_grad()
def test_replaced_cells_round_where_tirex_does() -> None:
    """More than 98% of the numbers have the same bits, at the size that docs/rnn/details.md names."""
    theirs, x = cell_of(512, 4), randn(16, 18, 2048, dtype=torch.float32)
    ours = copy.deepcopy(theirs)
    assert list(report_of(replace, ours).replaced) == [""]
    for found, expected in zip(ours(x, None), theirs(x, None), strict=True):
        assert (found == expected).double().mean() > 0.98


@torch.no_grad()
def test_blocks_differ_as_they_do_by_the_last_bit_of_their_biases() -> None:
    """On the average of three models: single ones differ more or less, and some not at all."""
    by_replacing, by_bits = [], []
    for _ in range(3):
        blocks = [block.sLSTMBlock(cells.sLSTMBlockConfig(256, 4), "torch") for _ in range(4)]
        model = torch.nn.Sequential(*blocks)
        for name, p in model.named_parameters():
            if "norm" not in name:
                torch.nn.init.normal_(p, std=1 if p.dim() == 1 else p.shape[1 if p.dim() == 3 else -1] ** -0.5)
        ours, nudged, x = copy.deepcopy(model), copy.deepcopy(model), torch.randn(8, 12, 256)
        assert len(report_of(replace, ours).replaced) == 4
        for name, p in nudged.named_parameters():
            if name.endswith("_bias_"):
                p.copy_(torch.nextafter(p, torch.full_like(p, math.inf)))
        expected = model(x)
        for changed, found in ((ours, by_replacing), (nudged, by_bits)):
            found.append(float((changed(x) - expected).norm() / expected.norm()))
    assert 0 < sum(by_replacing) <= 4 * sum(by_bits)
