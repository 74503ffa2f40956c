"""sLSTMBlock: equations in plain torch, initial values, checkpoints in every layout, streaming, refusals."""

from __future__ import annotations

import copy
import math
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from bench.rnn.flashrnn_cases import loop  # noqa: E402
from fastiter.torch.nn import sLSTMBlock  # noqa: E402
from tests.rnn.nn.cases_nn import F64, one_thread, randn  # noqa: E402, F401

H, N, T, B = 12, 3, 7, 2
D = H // N
OPTIONS = [{}, {"conv_size": 0}, {"ffn_factor": 0}, {"conv_size": 2, "activation": "silu"}, {"batch_first": True}]


def block_of(**options):
    torch.manual_seed(0)
    block = sLSTMBlock(H, num_heads=N, dtype=F64, **options)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return block


def equations(block, x):
    """Compute the block for x (B, T, H) as in the paper's figure."""
    weights = block.state_dict()

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def gate(x, name):
        heads = x.unflatten(-1, (N, D))
        return torch.stack([heads[..., n, :] @ weights[f"xlstm.{name}.weight"][n].T for n in range(N)], -2)

    inner = norm(x, "") * (1 + weights["xlstm_norm.weight"])
    seen = inner
    if block.conv_size:
        kernel = weights["xlstm.conv1d.conv.weight"]
        padded = F.pad(inner.transpose(1, 2), (block.conv_size - 1, 0))
        seen = F.silu(F.conv1d(padded, kernel, weights["xlstm.conv1d.conv.bias"], groups=H)).transpose(1, 2)
    wx = torch.stack([gate(seen, "fgate"), gate(seen, "igate"), gate(inner, "zgate"), gate(inner, "ogate")], 2)
    r = weights["xlstm.slstm_cell._recurrent_kernel_"].view(N, D, 4, D).permute(2, 0, 3, 1)
    states, _ = loop(wx, r, weights["xlstm.slstm_cell._bias_"].view(N, 4, D).transpose(0, 1), None, "slstm")
    x = x + norm(states[0], "").flatten(-2) * (1 + weights["xlstm.group_norm.weight"])
    if block.ffn is None:
        return x
    normed = norm(x, "") * (1 + weights["ffn_norm.weight"])
    a, b = (normed @ weights["ffn.proj_up.weight"].T).chunk(2, -1)
    return x + (getattr(F, block.activation)(a) * b) @ weights["ffn.proj_down.weight"].T


@pytest.mark.parametrize("options", OPTIONS)
def test_values_are_those_of_the_equations_and_steps_those_of_the_whole(options):
    block, x = block_of(**options), randn(B, T, H)
    given = x if block.batch_first else x.transpose(0, 1)
    y, last = block(given)
    rows = y if block.batch_first else y.transpose(0, 1)
    torch.testing.assert_close(rows, equations(block, x), rtol=1e-11, atol=1e-11)
    state, steps = None, []
    for t in range(T):
        step, state = block.step(x[:, t], state)
        steps.append(step)
    torch.testing.assert_close(torch.stack(steps, 1), rows, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(list(state), list(last), rtol=1e-11, atol=1e-11)
    half, between = block(given[:, :3] if block.batch_first else given[:3])
    rest, end = block(given[:, 3:] if block.batch_first else given[3:], between)
    torch.testing.assert_close(torch.cat([half, rest], 1 if block.batch_first else 0), y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(list(end), list(last), rtol=1e-11, atol=1e-11)


def test_gradients():
    block, x = block_of(conv_size=2), randn(3, 1, H).requires_grad_()
    names, weights = zip(*block.named_parameters(), strict=True)

    def outputs(x, *weights):
        y, last = torch.func.functional_call(block, dict(zip(names, weights, strict=True)), (x,))
        return (y, *last)

    assert torch.autograd.gradcheck(outputs, (x, *(w.detach().requires_grad_() for w in weights)), fast_mode=True)


def test_rows_of_different_lengths_and_packed():
    block, x, lengths = block_of(), randn(T, B, H), [4, 7]
    y, last = block(x, lengths=lengths)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    from_packed, _ = block(packed)
    for row, length in enumerate(lengths):
        alone, state = block(x[:length, row])
        torch.testing.assert_close(y[:length, row], alone)
        assert not y[length:, row].any()
        torch.testing.assert_close([s[row] for s in last], list(state))
    torch.testing.assert_close(torch.nn.utils.rnn.pad_packed_sequence(from_packed)[0], y)


def test_first_values():
    torch.manual_seed(0)
    block = sLSTMBlock(256, num_heads=2, block_index=1, num_blocks=3)
    cell = block.xlstm.slstm_cell
    assert not cell._recurrent_kernel_.any() and not block.xlstm_norm.weight.any()
    unit = torch.arange(128) / 127
    expected = -(-5 + 12 * unit ** (0.3 + 1.3 / 2))
    bias = cell._bias_.view(2, 4, 128)
    torch.testing.assert_close(bias[:, 1], expected.expand(2, -1))
    assert not bias[:, [0, 2, 3]].any()
    vanilla = sLSTMBlock(256, num_heads=2, block_index=1, num_blocks=3, layout="vanilla").xlstm.slstm_cell
    assert vanilla._bias_.view(4, 2, 128).equal(bias.transpose(0, 1))
    for weight, std in (
        (block.xlstm.zgate.weight, math.sqrt(2 / (5 * 256))),
        (block.ffn.proj_up.weight, math.sqrt(2 / (5 * 256))),
        (block.ffn.proj_down.weight, 2 / 3 / 16),
    ):
        assert abs(weight.std().item() / std - 1) < 0.05
    assert block.ffn.proj_down.weight.shape == (256, 384)  # 1.3 * 256 = 333 is rounded up
    assert sLSTMBlock(4, num_heads=4).xlstm.slstm_cell._bias_.view(4, 4)[:, 1].eq(5).all()


def stored(state, layout):
    """Convert a block's checkpoint from xlstm's layout "cuda" to another backend's."""
    kernel = state["xlstm.slstm_cell._recurrent_kernel_"].reshape(N, D, 4, D)
    bias = state["xlstm.slstm_cell._bias_"].reshape(N, 4, D)
    if layout == "vanilla":
        kernel, bias = kernel.permute(0, 2, 3, 1).reshape(N, 4 * D, D), bias.transpose(0, 1).reshape(-1)
    elif layout == "cuda":
        kernel, bias = kernel.reshape(N, D, 4 * D), bias.reshape(-1)
    return state | {"xlstm.slstm_cell._recurrent_kernel_": kernel, "xlstm.slstm_cell._bias_": bias}


@pytest.mark.parametrize("to", ["cuda", "vanilla"])
@pytest.mark.parametrize("layout", ["cuda", "vanilla", "external"])
def test_checkpoints_of_each_layout_load_both_ways(layout, to):
    block, x = block_of(), randn(T, B, H)
    state = stored(copy.deepcopy(block.state_dict()), layout)
    bias = state["xlstm.slstm_cell._bias_"]
    other = sLSTMBlock(H, num_heads=N, dtype=F64, layout=to)
    result = other.load_state_dict(state)
    assert not result.missing_keys and not result.unexpected_keys
    torch.testing.assert_close(other(x)[0], block(x)[0], rtol=1e-12, atol=1e-12)
    assert state["xlstm.slstm_cell._bias_"] is bias
    for key, expected in stored(block.state_dict(), to).items():
        assert other.state_dict()[key].equal(expected), key
    assert other.state_dict()["xlstm.slstm_cell._bias_"].data_ptr() == other.xlstm.slstm_cell._bias_.data_ptr()
    with pytest.raises(RuntimeError, match=r"size mismatch for xlstm.slstm_cell._recurrent_kernel_"):
        sLSTMBlock(2 * H, num_heads=N, dtype=F64, layout=to).load_state_dict(state)


def test_is_a_module():
    block, x = block_of(dropout=0.5, block_index=1, num_blocks=2), randn(T, B, H)
    assert "12, num_heads=3, dropout=0.5, block_index=1, num_blocks=2" in repr(block)
    assert not block(x)[0].equal(block(x)[0])
    block.eval()
    for duplicate in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))):
        assert duplicate(block)(x)[0].equal(block(x)[0])
    assert "batch_first=True, conv_size=2, activation='relu'" in repr(
        sLSTMBlock(4, batch_first=True, conv_size=2, activation="relu")
    )
    assert "4, num_heads=4, batch_first=True, layout='vanilla', stacked=True" in repr(
        sLSTMBlock(4, layout="vanilla", stacked=True)
    )


def test_refusals():
    wrong = [
        ({"num_heads": 5}, ValueError, "num_heads must divide embedding_size = 12, got 5"),
        ({"conv_size": -1}, ValueError, "conv_size must be at least 0, got -1"),
        ({"layout": "nhd"}, ValueError, "layout must be one of 'cuda', 'vanilla', got 'nhd'"),
        ({"stacked": 1}, TypeError, "stacked must be a bool, got int"),
        ({"activation": "tanh"}, ValueError, "activation must be one of 'gelu', 'relu', 'silu', got 'tanh'"),
        ({"dropout": 1.5}, ValueError, "dropout must be from 0 to 1, got 1.5"),
        ({"ffn_factor": -1}, ValueError, r"ffn_factor must be from 0 to 9.1626e\+10, got -1"),
        ({"ffn_factor": math.inf}, ValueError, r"ffn_factor must be from 0 to 9.1626e\+10, got inf"),
        ({"ffn_factor": 1e308}, ValueError, r"ffn_factor must be from 0 to 9.1626e\+10, got 1e\+308"),
        ({"ffn_factor": 10**400}, ValueError, r"ffn_factor must be from 0 to 9.1626e\+10, got a larger number"),
        ({"ffn_factor": "1"}, TypeError, "ffn_factor must be a number, got str"),
        ({"block_index": 2, "num_blocks": 2}, ValueError, "block_index must be below num_blocks = 2, got 2"),
    ]
    for options, error, message in wrong:
        with pytest.raises(error, match=f"^sLSTMBlock: {message}$"):
            sLSTMBlock(H, **{"num_heads": N, **options})
    with pytest.raises(ValueError, match=r"sLSTMBlock: state h must have shape \(2, 12\), got \(1, 12\)"):
        block_of()(randn(T, B, H), tuple(torch.zeros(1, 12, dtype=F64) for _ in range(5)))


@pytest.mark.parametrize("batch_first", [False, True])
def test_autocast_continues_from_its_own_state(batch_first):
    """h is returned in bfloat16, as by sLSTM."""
    torch.manual_seed(0)
    block, x = sLSTMBlock(8, batch_first, num_heads=2), torch.randn(6, 6, 8)
    time = 1 if batch_first else 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole, last = block(x)
        y, state = block(x.narrow(time, 0, 4))
        z, state = block(x.narrow(time, 4, 1), state)
        step, state = block.step(x.select(time, 5), state)
    assert last[0].dtype == torch.bfloat16
    torch.testing.assert_close(torch.cat([y, z, step.unsqueeze(time)], time), whole, rtol=0, atol=2**-6)
    assert [s.dtype for s in state] == [s.dtype for s in last]
    with pytest.raises(
        TypeError, match=r"^sLSTMBlock: state h must be float32 to go with the parameters, got bfloat16$"
    ):
        block(x, last)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TypeError, match=r"state h must be float32 .* int64"),
    ):
        block(x, (last[0].long(), *last[1:]))
