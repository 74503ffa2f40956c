"""sLSTMBlock in the place of a block of the package xlstm: the same parameters, states by name, refusals."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch.nn import sLSTMBlock  # noqa: E402
from tests.rnn.nn.cases_nn import one_thread, randn  # noqa: E402, F401
from tests.rnn.replace.xlstm_like import Block  # noqa: E402

B, T = 2, 7
OPTIONS = [
    {},
    {"steps": 0},
    {"steps": 1},
    {"width": 0},
    {"backend": "cuda", "act_fn": "swish"},
    {"heads": 1, "act_fn": "relu", "width": 128},
    {"size": 8, "heads": 4, "steps": 2},
]


def block_of(**options):
    torch.manual_seed(0)
    return Block(**options)


@pytest.mark.parametrize("options", OPTIONS)
def test_takes_the_place_of_a_block(options):
    theirs = block_of(**options)
    ours = sLSTMBlock.from_xlstm(theirs)
    x = randn(B, T, options.get("size", 12), dtype=torch.float32)
    assert all(p is q for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    y = ours(x)
    torch.testing.assert_close(y, theirs(x), rtol=1e-4, atol=1e-4)
    state, steps = {}, []
    for t in range(T):
        step, state = ours.step(x[:, t : t + 1], **state)
        steps.append(step)
    torch.testing.assert_close(torch.cat(steps, 1), y, rtol=1e-4, atol=1e-4)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert copied(x).equal(y)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layout", ["cuda", "vanilla"])
def test_checkpoints_load_both_ways(options, layout):
    theirs = block_of(**options | {"backend": layout})
    x = randn(B, T, options.get("size", 12), dtype=torch.float32)
    fresh = sLSTMBlock.from_xlstm(Block(**options | {"backend": layout}))
    fresh.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(fresh(x), theirs(x), rtol=1e-4, atol=1e-4)
    again = Block(**options | {"backend": layout})
    again.load_state_dict(fresh.state_dict())
    assert again(x).equal(theirs(x))


def test_states_are_those_of_xlstm():
    """The state of a step: the layer's last conv_size inputs, and all four states in one tensor; also for forward."""
    theirs, x = block_of(), randn(B, T, 12, dtype=torch.float32)
    ours = sLSTMBlock.from_xlstm(theirs).eval()
    state = {}
    for t in range(T):
        _, state = ours.step(x[:, t : t + 1], **state)
    (conv_state,) = state["conv_state"]
    torch.testing.assert_close(conv_state, theirs.xlstm_norm(x)[:, -4:], rtol=1e-5, atol=1e-5)
    assert state["slstm_state"].shape == (4, B, 12)
    more = randn(B, 3, 12, dtype=torch.float32, seed=5)
    expected = theirs(more, conv_state=conv_state[:, 1:], slstm_state=state["slstm_state"])
    torch.testing.assert_close(ours(more, **state), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        ours(more, conv_state=conv_state[:, 1:], slstm_state=state["slstm_state"]), expected, rtol=1e-4, atol=1e-4
    )
    from_nothing = ours(more, conv_state=torch.zeros(B, 3, 12))
    torch.testing.assert_close(from_nothing, ours(more), rtol=1e-5, atol=1e-5)


def test_training_mode_and_gradients():
    theirs, x = block_of(dropout=0.25).eval(), randn(B, T, 12, dtype=torch.float32)
    ours = sLSTMBlock.from_xlstm(theirs)
    assert not ours.training and ours.dropout == 0.25
    theirs(x).square().sum().backward()
    expected = [p.grad.clone() for p in theirs.parameters()]
    theirs.zero_grad()
    ours(x).square().sum().backward()
    for p, g in zip(theirs.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-3)


def test_refusals():
    wrong = [
        ({"function": "lstm"}, "function must be slstm, got lstm"),
        ({"act_fn": "selu"}, "act_fn must be gelu or relu or swish, got selu"),
        ({"width": 100}, "width of the feed-forward part must be a multiple of 64, got 100"),
        ({"bias": True}, "bias of the feed-forward part must be False, got True"),
        ({"forward_clipval": 2.0}, "forward_clipval must be None or False, got 2.0"),
        ({"gradient_recurrent_cut": True}, "gradient_recurrent_cut must be None or False, got True"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=f"^sLSTMBlock.from_xlstm: {message}$"):
            sLSTMBlock.from_xlstm(Block(**options))
    other = Block()
    other.config.feedforward.dropout = 0.5
    with pytest.raises(ValueError, match=r"dropout of the feed-forward part must be 0.0 like the other, got 0.5$"):
        sLSTMBlock.from_xlstm(other)
    for no_block in (torch.nn.Linear(2, 2), None, Block):
        with pytest.raises(
            TypeError, match=r"^sLSTMBlock.from_xlstm: block must be an sLSTM block of the package xlstm"
        ):
            sLSTMBlock.from_xlstm(no_block)


def test_states_by_name_are_checked():
    stacked, plain = sLSTMBlock(12, num_heads=3, stacked=True), sLSTMBlock(12, num_heads=3)
    x, state = torch.zeros(B, 1, 12), torch.zeros(4, B, 12)
    only = "conv_state and slstm_state must be given only if stacked is True, for input .B, T, H., in place of state$"
    for call in (
        lambda: plain(x, slstm_state=state),
        lambda: plain.step(x[:, 0], conv_state=x),
        lambda: stacked(x[0], slstm_state=state),
        lambda: stacked(x, list(state), slstm_state=state),
    ):
        with pytest.raises(ValueError, match=f"^sLSTMBlock: {only}"):
            call()
    with pytest.raises(ValueError, match=r"input of a step must have shape \(B, 1, H\), got \(2, 12\)$"):
        stacked.step(x[:, 0])
    with pytest.raises(TypeError, match=r"slstm_state must be a Tensor \(4, B, H\), got shape \(3, 2, 12\)$"):
        stacked(x, slstm_state=state[:3])
    with pytest.raises(
        TypeError, match=r"conv_state must be a Tensor \(B, K, H\) of K >= 3 .* got shape \(2, 1, 12\)$"
    ):
        stacked(x, conv_state=x)
    with pytest.raises(ValueError, match=r"state h must have shape \(2, 12\), got \(1, 12\)$"):
        stacked(x, slstm_state=state[:, :1])
