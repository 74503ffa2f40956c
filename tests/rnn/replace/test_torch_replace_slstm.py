"""replace on the sLSTM cells of other packages: equal results by one kernel call, and reasons for refusal."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import fastiter  # noqa: E402
from fastiter.torch import replace  # noqa: E402
from tests.rnn.nn.cases_nn import one_thread, randn  # noqa: E402, F401
from tests.rnn.replace.xlstm_like import Block, Cell, Config, TirexCell, TirexConfig  # noqa: E402
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tirex_rounds_as_its_own_loop(dtype):
    """All but a few bfloat16 numbers are the same bits, which float32 between the steps would not give."""
    torch.manual_seed(0)
    cell, x = TirexCell(TirexConfig(96, 3)).to(dtype), randn(B, 20, 384, dtype=dtype)
    both = []
    for make in (lambda c: c, replaced):
        cell = make(cell)
        state = torch.zeros(4, B, 96, dtype=dtype)
        both.append([gradients(cell, x, state)])
        state = both[0][0][1].detach()  # from the state reached
        both[-1].append(gradients(cell, x, state))
    for some in zip(*both, strict=True):
        for k, (theirs, ours) in enumerate(zip(*some, strict=True)):
            assert ours.dtype == theirs.dtype == dtype
            assert k >= 2 or (ours == theirs).double().mean() > 0.99, "output" if k == 0 else "state"
            assert (ours - theirs).double().norm() <= 2**-6 * theirs.double().norm()
    fastiter.set_num_threads(2)
    assert cell(x, None)[0].equal(both[1][0][0])
    assert cell(x[:, :0], None)[0].shape == (B, 3, 0, 32) and cell(x[:0], None)[1].shape == (4, 0, 96)
    assert restored_names(cell) == [""] and type(cell) is TirexCell


def replaced(cell):
    assert list(report_of(replace, cell).replaced) == [""]
    return cell


def test_second_derivatives_of_tirex():
    torch.manual_seed(0)
    cell, x = TirexCell(TirexConfig(24, 3)), randn(B, 5, 96, dtype=torch.float32).requires_grad_()
    both = []
    for make in (lambda c: c, replaced):
        output, state = make(cell)(x, None)
        (dx,) = torch.autograd.grad(output.square().sum() + state.sum(), x, create_graph=True)
        both.append(torch.autograd.grad(dx.square().sum(), [x, *cell.parameters()]))
    for theirs, ours in zip(*both, strict=True):
        assert (ours - theirs).norm() <= 2**-4 * theirs.norm()


class WithoutRounding(TirexCell):
    def forward(self, input, state):
        inner = Cell(Config(self.config.embedding_dim, self.config.num_heads), "cuda")
        inner.load_state_dict(self.state_dict())
        return inner(input, state)


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
    """A module whose config or parameters have other names or sizes, and which is therefore none of these cells."""

    def __init__(self, kernel, bias, config):
        super().__init__()
        self.config, self._recurrent_kernel_ = config, nn.Parameter(torch.zeros(kernel))
        self._bias_ = nn.Parameter(torch.zeros(bias))


def test_layers_left_unchanged_and_the_reasons():
    clipped = {"gradient_recurrent_clipval": 1.0}, {"forward_clipval": 2.0}, {"gradient_recurrent_cut": True}
    cells = [Capped(Config()), OtherOrder(Config()), *(Cell(Config(**clip)) for clip in clipped)]
    cells += [Cell(Config(function="gru")), TirexCell(TirexConfig(), "cuda"), Cell(Config()).half(), Cell(Config())]
    cells[-1].forward = lambda x: x
    cells.append(WithoutRounding(TirexConfig()))
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
        "9": "its forward does not compute what fastiter.torch.slstm does with the products and states rounded to "
        "bfloat16",
    }
