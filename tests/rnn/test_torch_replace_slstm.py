"""replace on the sLSTM cells of other packages: equal results by one kernel call, and reasons for refusal."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fastiter.torch import replace  # noqa: E402
from tests.rnn.cases_nn import one_thread, randn  # noqa: E402, F401
from tests.rnn.xlstm_like import Block, Cell, Config, TirexCell, TirexConfig  # noqa: E402
from tests.support.reports import report_of, restored_names  # noqa: E402

B, T = 2, 9
CONFIGS = [
    {},
    {"backend": "cuda"},
    {"input_shape": "SBGNH", "output_shape": "SBNH"},
    {"output_shape": "BSH", "hidden_size": 16, "num_heads": 4},
    {"output_shape": "SBH", "num_heads": 1, "backend": "cuda"},
    {"function": "lstm", "num_states": 2},
]


def cell_of(backend="vanilla", **options):
    torch.manual_seed(0)
    cell = Cell(Config(**options), backend)
    nn.init.normal_(cell._recurrent_kernel_, std=0.4)
    return cell


def gradients(cell, x, state=None):
    leaves = [x.clone().requires_grad_(), *([] if state is None else [state.clone().requires_grad_()])]
    cell.zero_grad()
    output, last = cell(leaves[0], *leaves[1:])
    (output * randn(*output.shape, dtype=x.dtype, seed=3)).sum().backward(retain_graph=True)
    last[:2].sum().backward()
    return [output, last, *(p.grad for p in leaves), *(p.grad for p in cell.parameters())]


@pytest.mark.parametrize("options", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_gradients_and_states(options, dtype):
    cell = cell_of(**options).to(dtype)
    x = randn(B, T, 4 * cell.config.hidden_size, dtype=dtype)
    x = x.transpose(0, 1).contiguous() if cell.config.input_shape == "SBGNH" else x
    expected, (_, state) = gradients(cell, x), cell(x)
    further = gradients(cell, x, state.detach())
    model = nn.Sequential(cell)
    report = report_of(replace, model)
    assert list(report.replaced) == ["0"] and not report.left
    assert isinstance(cell, Cell) and type(cell).__name__ == "Cell"
    eps = torch.finfo(dtype).eps
    for actual, want in zip(gradients(cell, x), expected, strict=True):
        torch.testing.assert_close(actual, want, rtol=2000 * eps, atol=2000 * eps)
    for actual, want in zip(gradients(cell, x, state.detach()), further, strict=True):
        torch.testing.assert_close(actual, want, rtol=2000 * eps, atol=2000 * eps)
    for duplicate in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))):
        other = duplicate(model)
        assert other[0](x)[0].equal(cell(x)[0])
        assert restored_names(other) == ["0"] and type(other[0]) is Cell
    assert list(cell.state_dict()) == ["_recurrent_kernel_", "_bias_"]
    assert restored_names(model) == ["0"] and type(cell) is Cell


def test_in_a_model_of_bfloat16():
    cell, x = cell_of().bfloat16(), randn(B, T, 48, dtype=torch.bfloat16)
    exact = cell_of().to(torch.bfloat16).double()(x.double())[0]
    theirs = (cell(x)[0] - exact).abs().max()
    assert list(report_of(replace, cell).replaced) == [""]
    output, state = cell(x)
    assert output.dtype == state.dtype == torch.bfloat16
    assert (output - exact).abs().max() <= theirs + 2**-8 * exact.abs().max()


def test_under_autocast():
    cell, x = cell_of(), randn(B, T, 48, dtype=torch.float32)
    exact = cell(x)[0]
    replace(cell)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = cell(x)
        again, _ = cell(x, state)
    assert output.dtype == state.dtype == torch.float32 and again.shape == output.shape
    assert (output - exact).abs().max() <= 2**-5 * exact.abs().max()


def test_tirex_is_more_exact_than_its_own_loop():
    torch.manual_seed(0)
    cell, x = TirexCell(TirexConfig()), randn(B, 20, 48, dtype=torch.float32)
    inner = Cell(Config(), "cuda").double()
    inner.load_state_dict(cell.state_dict())
    exact, _ = inner(x.double())
    theirs = (cell(x, None)[0] - exact).abs().max()
    assert list(report_of(replace, cell).replaced) == [""]
    output, state = cell(x, state=None)
    assert (output - exact).abs().max() <= theirs / 10
    torch.testing.assert_close(cell(x, state)[0], inner(x.double(), state.double())[0].float(), rtol=1e-4, atol=1e-4)
    assert restored_names(cell) == [""] and type(cell) is TirexCell


def test_in_a_block_and_hooks_do_not_fire():
    torch.manual_seed(0)
    block, x = Block(), randn(B, T, 12, dtype=torch.float32)
    seen, expected = [], block(x)
    block.xlstm.slstm_cell.register_forward_hook(lambda *_: seen.append(1))
    state = torch.random.get_rng_state()
    assert list(report_of(replace, block).replaced) == ["xlstm.slstm_cell"]
    assert not seen and state.equal(torch.random.get_rng_state())
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-4)
    assert seen == [1]


class Capped(Cell):
    def forward(self, input, state=None, lengths=None):
        output, state = super().forward(input, state, lengths)
        return output.clamp(-0.1, 0.1), state


class OtherOrder(Cell):
    def forward(self, input, state=None, lengths=None):
        f, i, z, o = input.chunk(4, -1)
        return super().forward(torch.cat([i, f, z, o], -1), state, lengths)


class NotAsked(nn.Module):
    """A module whose config or parameters have other names or sizes, and so is none of these cells."""

    def __init__(self, kernel, bias, config):
        super().__init__()
        self.config, self._recurrent_kernel_ = config, nn.Parameter(torch.zeros(kernel))
        self._bias_ = nn.Parameter(torch.zeros(bias))


def test_what_is_left_and_why():
    clipped = {"gradient_recurrent_clipval": 1.0}, {"forward_clipval": 2.0}, {"gradient_recurrent_cut": True}
    cells = [Capped(Config()), OtherOrder(Config()), *(Cell(Config(**clip)) for clip in clipped)]
    cells += [Cell(Config(function="gru")), TirexCell(TirexConfig(), "cuda"), Cell(Config()).half(), Cell(Config())]
    cells[-1].forward = lambda x: x
    cells += [NotAsked((3, 4, 16), 47, Config()), NotAsked((3, 4, 16), 48, None)]
    cells += [NotAsked((3, 4, 16), 48, SimpleNamespace(num_heads="3", head_dim=4, num_gates=4))]
    model = nn.ModuleList(cells)
    report = report_of(replace, model)
    assert not report.replaced
    assert report.left == {
        "0": "its forward does not compute what fastiter.torch.slstm does",
        "1": "its forward does not compute what fastiter.torch.slstm does",
        "2": "its config has gradient_recurrent_clipval",
        "3": "its config has forward_clipval",
        "4": "its config has gradient_recurrent_cut",
        "5": "its function is gru",
        "6": "its forward fails: xlstm package not found!",
        "7": "its _recurrent_kernel_ is float16 on cpu",
        "8": "its forward was replaced",
    }
