"""accelerate on the recurrent policies of sb3-contrib: one call of the LSTM, the same results, losses and gradients."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
policies = pytest.importorskip("sb3_contrib.common.recurrent.policies")

from gymnasium import Env, spaces  # noqa: E402
from sb3_contrib import RecurrentPPO  # noqa: E402
from sb3_contrib.common.recurrent.type_aliases import RNNStates  # noqa: E402

from fastiter.torch import accelerate, replace  # noqa: E402
from tests.support.pairs import pairs  # noqa: E402
from tests.support.reports import report_of, restored_names  # noqa: E402

Policy = policies.RecurrentActorCriticPolicy
FEATURES, WIDTH = 5, 8
LAYERS = ["lstm_actor", "lstm_critic"]


def make(of: Any = Policy, **options: Any) -> Any:
    """Return a policy with random weights, the same ones every time."""
    torch.manual_seed(0)
    return of(spaces.Box(-1.0, 1.0, (FEATURES,)), spaces.Discrete(3), lambda _: 1e-3, lstm_hidden_size=WIDTH, **options)


def flags(rows: int, time: int, where: str, flag: float = 1.0) -> Any:
    """Return the flags of sequences, one after another, as in the batches of RecurrentPPO."""
    result = torch.zeros(rows, time)
    if where in ("first", "both"):
        result[:, 0] = flag
    if where in ("later", "both"):
        result[0, time // 2] = result[-1, time - 1] = flag
    return result.flatten()


def run(policy: Any, rows: int, time: int, starts: Any) -> dict[str, Any]:
    """Return the output and the states of a policy's LSTM, and all gradients."""
    lstm, random = policy.lstm_actor, torch.Generator().manual_seed(1)
    dtype = lstm.weight_ih_l0.dtype
    x = torch.randn(rows * time, FEATURES, generator=random).to(dtype).requires_grad_()
    states = torch.randn(2, lstm.num_layers, rows, WIDTH, generator=random).to(dtype).requires_grad_()
    out, (h, c) = policy._process_sequence(x, tuple(states), starts.to(dtype), lstm)
    results = {"out": out, "h": h, "c": c}
    loss = sum((y * torch.randn(y.shape, generator=random)).sum() for y in results.values())
    leaves = {"x": x, "states": states, **dict(lstm.named_parameters())}
    return results | dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def are_equal(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(torch.equal(found[name], x) for name, x in expected.items())


def calls_of(lstm: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that grows with each call of a layer, which stays without hooks."""
    seen: list[Any] = []
    forward = type(lstm).forward

    def counted(self: Any, input: Any, *args: Any, **options: Any) -> Any:
        seen.append(input.shape)
        return forward(self, input, *args, **options)

    monkeypatch.setattr(type(lstm), "forward", counted)
    return seen


@pairs
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("where", ["none", "first", "later", "both"])
@pytest.mark.parametrize(("rows", "time"), [(1, 1), (3, 1), (1, 9), (3, 9)])
def test_one_call_gives_the_same(
    rows: int, time: int, where: str, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = flags(rows, time, where)
    exact = run(make(n_lstm_layers=layers).double(), rows, time, starts)
    theirs = run(make(n_lstm_layers=layers), rows, time, starts)
    policy = accelerate(make(n_lstm_layers=layers))
    seen = calls_of(policy.lstm_actor, monkeypatch)
    ours = run(policy, rows, time, starts)
    assert seen == [(time, rows, FEATURES)]
    for name, x in exact.items():
        bound = 3 * (theirs[name] - x).norm() + 2 * time * torch.finfo(torch.float32).eps * x.norm()
        assert ours[name].shape == x.shape and (ours[name] - x).norm() <= bound, name


def test_report_restore_copies_and_files() -> None:
    policy, starts = make(), flags(3, 9, "both")
    before = run(policy, 3, 9, starts)
    report = report_of(accelerate, policy)
    assert report.accelerated[""] == "RecurrentActorCriticPolicy, _process_sequence by fastiter.torch.nn.LSTM"
    assert sorted(report.accelerated) == ["", *LAYERS] and not report.left
    assert isinstance(policy, Policy) and type(make()) is Policy
    after = run(policy, 3, 9, starts)
    assert not are_equal(after, before)
    for other in (copy.deepcopy(policy.lstm_actor), pickle.loads(pickle.dumps(policy.lstm_actor))):
        assert type(other) is type(policy.lstm_actor)
    assert sorted(restored_names(policy)) == ["", *LAYERS] and type(policy) is Policy
    assert are_equal(run(policy, 3, 9, starts), before)


# ---- Where the original runs ----------------------------------------------------------------------------------------


def hooked(policy: Any) -> None:
    policy.lstm_actor.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("options", "flag", "change"),
    [
        ({"n_lstm_layers": 2, "lstm_kwargs": {"dropout": 0.5}}, 1.0, lambda policy: policy.train()),
        ({}, 0.25, lambda _: None),
        ({}, 1.0, hooked),
    ],
    ids=["dropout", "fractions", "hooks"],
)
def test_steps_where_one_call_differs(options: dict[str, Any], flag: float, change: Any) -> None:
    """Random numbers and hooks depend on the calls, and a state that is multiplied by a fraction is no reset."""
    expected_of, ours = replace(make(**options)), accelerate(make(**options))
    results = []
    for policy in (expected_of, ours):
        change(policy)
        torch.manual_seed(2)
        results.append(run(policy, 3, 9, flags(3, 9, "both", flag)))
    assert are_equal(*results)


def test_layers_of_torch_run_step_by_step() -> None:
    policy, starts = make(), flags(3, 9, "both")
    expected = run(policy, 3, 9, starts)
    policy.lstm_actor.forward = policy.lstm_actor.forward  # which leaves the layer unchanged
    report = report_of(accelerate, policy)
    assert report.left == {"lstm_actor": "its forward was replaced"} and "" in report.accelerated
    assert are_equal(run(policy, 3, 9, starts), expected)


def test_a_policy_with_a_method_of_its_own_keeps_it() -> None:
    class Own(Policy):
        @staticmethod
        def _process_sequence(features: Any, lstm_states: Any, episode_starts: Any, lstm: Any) -> Any:
            return features[:, :1], lstm_states

    policy = make(Own)
    assert sorted(report_of(accelerate, policy).accelerated) == LAYERS
    assert type(policy) is Own


# ---- Whole policies and training ------------------------------------------------------------------------------------


class Walk(Env):  # type: ignore[misc]
    """A random walk in three dimensions, with episodes of 3 to 9 steps."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 10))
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return self._seen(), float(action == self.left % 3), self.left == 0, False, {}

    def _seen(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype("float32")


@pytest.mark.parametrize(
    "options", [{}, {"shared_lstm": True, "enable_critic_lstm": False}, {"enable_critic_lstm": False}]
)
def test_training(options: dict[str, Any]) -> None:
    """The same rollouts, losses and weights, without Adam, which divides rounding errors by themselves."""
    kinds, found = {"lstm_hidden_size": WIDTH, "optimizer_class": torch.optim.SGD, **options}, []
    for is_ours in (False, True):
        model = RecurrentPPO(
            "MlpLstmPolicy", Walk(), n_steps=40, batch_size=20, n_epochs=2, seed=0, device="cpu", policy_kwargs=kinds
        )
        if is_ours:
            layers = LAYERS[: 1 + ("enable_critic_lstm" not in options)]
            assert sorted(report_of(accelerate, model.policy).accelerated) == ["", *layers]
        model.learn(80)
        losses = [torch.tensor(x) for name, x in model.logger.name_to_value.items() if "loss" in name]
        actions = torch.from_numpy(model.rollout_buffer.actions)
        found.append((actions, losses, [p.detach() for p in model.policy.parameters()]))
    (actions, losses, weights), (our_actions, our_losses, our_weights) = found
    assert torch.equal(our_actions, actions) and len(losses) == 4
    for a, e in zip(our_losses + our_weights, losses + weights, strict=True):
        torch.testing.assert_close(a.float(), e.float(), rtol=2e-4, atol=2e-5)


def test_a_policy_of_several_inputs() -> None:
    """It is derived from the plain one, whose method it inherits."""
    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Discrete(3)})
    torch.manual_seed(0)
    of = policies.RecurrentMultiInputActorCriticPolicy
    policy = of(space, spaces.Discrete(3), lambda _: 1e-3, lstm_hidden_size=WIDTH)
    given = {"a": torch.randn(27, 2), "b": torch.arange(27) % 3}
    states = RNNStates(*2 * (tuple(torch.randn(2, 1, 3, WIDTH)),))
    arguments = given, torch.arange(27) % 3, states, flags(3, 9, "both")
    expected = policy.evaluate_actions(*arguments)
    assert "" in report_of(accelerate, policy).accelerated
    for a, e in zip(policy.evaluate_actions(*arguments), expected, strict=True):
        torch.testing.assert_close(a, e)
