"""The cells of the package xlstm: those of xlstm_like compute the same, and replace changes both alike."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
xlstm = pytest.importorskip("xlstm")
cells = pytest.importorskip("xlstm.blocks.slstm.cell")

from fastiter.rnn._torch.nn.slstm_layouts import recurrence_of  # noqa: E402
from fastiter.torch import replace  # noqa: E402
from fastiter.torch.nn import sLSTMBlock  # noqa: E402
from tests.rnn.nn.cases_nn import F64, randn  # noqa: E402
from tests.rnn.replace.xlstm_like import Cell, Config  # noqa: E402
from tests.support.reports import report_of  # noqa: E402

CONFIGS: list[dict[str, Any]] = [
    {},
    {"input_shape": "SBGNH", "output_shape": "SBNH"},
    {"output_shape": "BSH", "hidden_size": 16, "num_heads": 4},
    {"output_shape": "SBH", "num_heads": 1},
    {"function": "lstm", "num_states": 2},
]


@pytest.mark.parametrize("options", CONFIGS)
def test_cells(options: dict[str, Any]) -> None:
    """In float64: the same output and states from zeros and from other states, and `lengths` changes nothing."""
    torch.manual_seed(0)
    alike = Cell(Config(**options)).double()
    torch.nn.init.normal_(alike._recurrent_kernel_, std=0.4)
    theirs = cells.sLSTMCell(cells.sLSTMCellConfig(**{"hidden_size": 12, "num_heads": 3} | options, backend="vanilla"))
    theirs.double().load_state_dict(alike.state_dict())
    x = randn(4, 5, 4 * alike.config.hidden_size)
    state = theirs(x)[1].detach()
    expected = [*theirs(x), *theirs(x, state), *theirs(x, state, lengths=torch.tensor([1, 2, 3, 4]))]
    assert expected[2].equal(expected[4]) and expected[3].equal(expected[5])
    for cell in (alike, replaced(theirs)):
        for a, e in zip((*cell(x), *cell(x, state)), expected, strict=False):
            torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


def replaced(cell: Any) -> Any:
    assert list(report_of(replace, cell).replaced) == [""]
    return cell


def test_layouts_of_both_backends() -> None:
    """The kernel and the bias of either backend, from the same weights by the package's own conversions."""
    torch.manual_seed(0)
    config = cells.sLSTMCellConfig(hidden_size=12, num_heads=3)
    assert config.backend == "cuda"
    cuda = cells.sLSTMCell_cuda(config, skip_backend_init=True)
    vanilla = cells.sLSTMCell_vanilla(cells.sLSTMCellConfig(hidden_size=12, num_heads=3, backend="vanilla"))
    r, b = randn(3, 4, 4, 4), randn(3, 4, 4)  # for each head: in, gate, out; gate, out
    for cell in (cuda, vanilla):
        kernel, bias = cell._recurrent_kernel_ext2int(r), cell._bias_ext2int(b)
        assert kernel.shape == cell._recurrent_kernel_.shape and bias.shape == cell._bias_.shape
        found = recurrence_of(kernel, bias, 3, 4)
        assert found[0].equal(r.permute(2, 0, 3, 1)) and found[1].equal(b.transpose(0, 1))


def test_first_values_are_those_of_xlstm() -> None:
    """The biases are the same numbers; random weights have the same deviation, and the others are 0."""
    slstm = xlstm.sLSTMLayerConfig(backend="vanilla", num_heads=4, embedding_dim=256)
    ffn = xlstm.FeedForwardConfig(proj_factor=1.3, embedding_dim=256)
    config = xlstm.sLSTMBlockConfig(slstm=slstm, feedforward=ffn, _num_blocks=3, _block_idx=1)
    theirs = xlstm.sLSTMBlock(config).state_dict()
    ours = sLSTMBlock(256, num_heads=4, block_index=1, num_blocks=3, layout="vanilla").state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if "conv1d" in name or (value.dim() == 1 and name.endswith("_bias_")):
            torch.testing.assert_close(value.std(), theirs[name].std(), rtol=0.2, atol=0)
        elif value.dim() > 1 and value.any():  # deviations of 16,384 numbers or more
            assert abs(value.std() / theirs[name].std() - 1) < 0.05, name
        else:
            assert not value.any() and not theirs[name].any(), name
    bias = "xlstm.slstm_cell._bias_"
    torch.testing.assert_close(ours[bias], theirs[bias])


def test_states_of_steps() -> None:
    """A step of a stacked block passes on the states and the last inputs that xlstm's does."""
    slstm = xlstm.sLSTMLayerConfig(backend="vanilla", num_heads=3, embedding_dim=12)
    ffn = xlstm.FeedForwardConfig(proj_factor=1.3, embedding_dim=12)
    theirs = xlstm.sLSTMBlock(
        xlstm.sLSTMBlockConfig(slstm=slstm, feedforward=ffn, _num_blocks=1, _block_idx=0)
    ).double()
    torch.nn.init.normal_(theirs.xlstm.slstm_cell._recurrent_kernel_, std=0.4)
    ours, x = sLSTMBlock.from_xlstm(theirs), randn(2, 6, 12, dtype=F64)
    states: list[dict[str, Any]] = [{}, {}]
    for t in range(6):
        for k, block in enumerate((ours, theirs)):
            y, states[k] = block.step(x[:, t : t + 1], **states[k])
            states[k]["y"] = y
        mine, given = (state.pop("conv_state")[0] for state in states)
        torch.testing.assert_close(mine, given, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(states[0], states[1], rtol=1e-10, atol=1e-10)
        for state, recent in zip(states, (mine, given), strict=True):
            state["conv_state"] = (recent,)
            del state["y"]
