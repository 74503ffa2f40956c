"""accelerate on layers with the structure of older transformers; versions.py runs it on real older versions."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.models.mamba.modeling_mamba import mamba_selective_scan  # noqa: E402

from fastiter.torch import accelerate, restore  # noqa: E402
from tests.accelerate import gpu_path_models  # noqa: E402
from tests.accelerate.gpu_path_models import ConvSteps, GatedDeltaNet, Mamba2Mixer, MambaMixer, ShortConv, cache  # noqa: E402
from tests.support.reports import restored_names  # noqa: E402

EPS = torch.finfo(torch.float32).eps  # the path for GPUs rounds A, D and the bias to float32


def make(of: Any) -> Any:
    torch.manual_seed(0)
    return of().double()


def results(module: Any, *arguments: Any) -> list[Any]:
    """Return the output and the gradients of the input and of all parameters."""
    x = torch.randn(2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = module(x, *arguments)
    y = y if isinstance(y, torch.Tensor) else y[0]
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *module.parameters()])]


def assert_close(found: list[Any], expected: list[Any]) -> None:
    for x, y in zip(found, expected, strict=True):
        assert (x - y).norm() <= 4 * EPS * y.norm()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_slow_path_of_a_mixer(training: bool, masked: bool) -> None:
    module, mask = make(MambaMixer).train(training), torch.ones(2, 9, dtype=torch.float64)
    mask[1, :3] = 0
    arguments = (None, mask) if masked else ()
    expected = results(module, *arguments)
    report = accelerate(module, return_report=True)[1]
    assert report.accelerated == {"": "MambaMixer, slow_forward by fastiter.torch.ssm.selective_scan"}
    found = results(module, *arguments)
    assert_close(found, expected)
    assert module.training == training
    assert not torch.equal(found[0], expected[0])
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(results(copied, *arguments)[0], found[0])
    assert restored_names(module) == [""]
    assert all(torch.equal(x, y) for x, y in zip(results(module, *arguments), expected, strict=True))


def test_an_activation_that_the_convolution_lacks() -> None:
    module = make(MambaMixer)
    expected = results(module)[0]
    module.activation = "gelu"  # the slow path here ignores it
    accelerate(module)
    assert torch.equal(results(module)[0], expected)


SHAPES = {MambaMixer: {}, Mamba2Mixer: {"state": (2, 4, gpu_path_models.N)}, ShortConv: {"channels": 8}}


@pytest.mark.parametrize("of", SHAPES)
@pytest.mark.parametrize("with_gradients", [False, True])
def test_steps_with_a_cache(with_gradients: bool, of: Any) -> None:
    theirs, ours = make(of), accelerate(make(of))
    caches = [cache(2, torch.float64, **SHAPES[of]), cache(2, torch.float64, **SHAPES[of])]
    x = torch.randn(2, 8, 8, dtype=torch.float64)
    with torch.set_grad_enabled(with_gradients):
        for part in (x[:, :6], x[:, 6:7], x[:, 7:]):
            expected, found = (m(part, c) for m, c in zip((theirs, ours), caches, strict=True))
            assert_close([found, *states_of(caches[1])], [expected, *states_of(caches[0])])
            for c in caches:
                c.used = True
                c.conv_states, c.recurrent_states = c.conv_states.detach(), c.recurrent_states.detach()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("of", "path", "by"), [(Mamba2Mixer, "torch_forward", "ssd"), (ShortConv, "slow_forward", "causal_conv1d")]
)
def test_other_slow_paths(of: Any, path: str, by: str, training: bool) -> None:
    module = make(of).train(training)
    expected = results(module)
    report = accelerate(module, return_report=True)[1]
    assert report.accelerated == {"": f"{of.__name__}, {path} by fastiter.torch.ssm.{by}"}
    found = results(module)
    # Sums of four taps have the same bits as the original ones on some processors.
    assert type(module) is not of and (of is ShortConv or not torch.equal(found[0], expected[0]))
    assert_close(found, expected)
    assert restored_names(module) == [""] and type(module) is of
    assert all(torch.equal(x, y) for x, y in zip(results(module), expected, strict=True))


def test_limits_of_step_sizes() -> None:
    """The function for steps has no such limits, so the slow path handles them."""
    modules = make(Mamba2Mixer), accelerate(make(Mamba2Mixer))
    caches, x = [cache(2, torch.float64, **SHAPES[Mamba2Mixer]) for _ in modules], torch.randn(2, 7, 8).double()
    with torch.no_grad():
        for part in (x[:, :6], x[:, 6:]):
            outputs = []
            for module, c in zip(modules, caches, strict=True):
                module.time_step_limit = (0.5, 0.8)
                outputs.append(module(part, c))
                c.used = True
            assert_close(outputs[1:], outputs[:1])


def test_a_function_for_steps_of_a_convolution() -> None:
    theirs, ours = make(ConvSteps), make(ConvSteps)
    report = accelerate(ours, return_report=True)[1]
    assert report.accelerated == {"": "ConvSteps, causal_conv1d_update by fastiter.torch.ssm.causal_conv1d_update"}
    x, states = torch.randn(2, 8, 1).double(), [torch.ones(2, 8, 4).double() for _ in range(2)]
    with torch.no_grad():
        expected, found = theirs(x, states[0]), ours(x, states[1])
        assert_close([found, states[1]], [expected, states[0]])
        ours.activation = theirs.activation = None  # the original code ignores it, and runs
        assert torch.equal(ours(x, states[1]), theirs(x, states[0]))
    assert restored_names(ours) == [""]


def states_of(c: Any) -> list[Any]:
    return [c.conv_states, c.recurrent_states]


@pytest.mark.parametrize("wants_kernels", [True, False])
def test_a_forward_that_refuses_the_cpu(wants_kernels: bool) -> None:
    """As that of Jamba and Zamba does by default."""

    class Refusing(MambaMixer):
        use_fast_kernels = wants_kernels

        def forward(self, *args: Any) -> Any:
            if self.use_fast_kernels:
                raise ValueError("Fast Mamba kernels are not available.")
            return self.slow_forward(*args)

    report = accelerate(make(Refusing), return_report=True)[1]
    assert list(report.accelerated) == ([] if wants_kernels else [""])
    why = "its use_fast_kernels is True, and its forward then raises an error on CPUs; "
    assert report.left == ({"": f"{why}build the model with use_mamba_kernels=False"} if wants_kernels else {})


def test_paths_with_other_arguments_are_left_unchanged() -> None:
    class Other(MambaMixer):
        def slow_forward(self, input_states: Any, cache_position: Any = None) -> Any:
            return input_states

    report = accelerate(make(Other), return_report=True)[1]
    expected = "its cuda_kernels_forward takes cache_params, attention_mask, and its slow_forward cache_position"
    assert report.left == {"": expected}


class WithHooks(torch.nn.Module):
    """A mixer whose decorator does not set __wrapped__, as in transformers 5.15.0."""

    def around(function: Any) -> Any:
        def wrapped(self: Any, *arguments: Any) -> Any:
            self.calls += 1
            return function(self, *arguments)

        return wrapped

    calls = 0

    @around
    def forward(self, *arguments: Any) -> Any:
        return mamba_selective_scan(*arguments)


def test_a_decorator_without_wraps() -> None:
    module, (u, delta) = WithHooks(), torch.randn(2, 1, 4, 6).unbind()
    arguments = (u, delta.abs(), -torch.rand(4, 3), *torch.randn(2, 1, 3, 6).unbind())
    expected = module(*arguments)
    assert accelerate(module, return_report=True)[1].accelerated
    found = module(*arguments)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, expected) and module.calls == 2


def test_functions_without_groups_of_value_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models repeat keys and queries before the call, so these functions are not tried with groups."""

    def torch_chunk_gated_delta_rule(query: Any, key: Any, value: Any, g: Any, beta: Any, **options: Any) -> Any:
        assert query.shape[2] == value.shape[2]
        return real(query, key, value, g, beta, **options)

    def other_groups(query: Any, key: Any, value: Any, g: Any, beta: Any, **options: Any) -> Any:
        if query.shape[2] != value.shape[2]:
            query, key = (torch.cat([x, x], 2) for x in (query, key))
        return real(query, key, value, g, beta, **options)

    real = gpu_path_models.torch_chunk_gated_delta_rule
    monkeypatch.setattr(gpu_path_models, "torch_chunk_gated_delta_rule", torch_chunk_gated_delta_rule)
    module = make(GatedDeltaNet)
    expected, (report, found) = results(module)[0], (accelerate(module, return_report=True)[1], results(module)[0])
    assert report.accelerated and (found - expected).norm() <= 32 * EPS * expected.norm()
    restore(module)
    monkeypatch.setattr(gpu_path_models, "torch_chunk_gated_delta_rule", other_groups)
    left = accelerate(module, return_report=True)[1].left
    assert left == {"": "its chunk_gated_delta_rule computes something else than before"}


def test_functions_as_attributes() -> None:
    module = make(GatedDeltaNet)
    expected = results(module)
    report = accelerate(module, return_report=True)[1]
    functions = [f"{name}_gated_delta_rule by fastiter.torch.delta_scan" for name in ("chunk", "recurrent")]
    assert report.accelerated == {"": f"GatedDeltaNet, {', '.join(functions)}"}
    for copied in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        found = results(copied)
        assert not torch.equal(found[0], expected[0])
        for x, y in zip(found, expected, strict=True):  # theirs computes in float32
            assert (x - y).norm() <= 32 * EPS * y.norm()
        assert copied.__dict__["chunk_gated_delta_rule"] is gpu_path_models.torch_chunk_gated_delta_rule
    x, state = torch.randn(2, 1, 8, dtype=torch.float64), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    found = [y.double() for y in module(x, state)]
    module.chunk_gated_delta_rule = gpu_path_models.torch_recurrent_gated_delta_rule  # ours replaces it, too
    assert_close(results(module), results(copy.deepcopy(module)))
    assert restored_names(module) == [""]
    assert module.chunk_gated_delta_rule is gpu_path_models.torch_recurrent_gated_delta_rule
    for y, expected_y in zip(found, module(x, state), strict=True):
        assert (y - expected_y).norm() <= 32 * EPS * expected_y.norm()
