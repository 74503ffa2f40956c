"""accelerate where our functions do not apply, or where a module's settings determine what its functions compute."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fastiter.torch import accelerate  # noqa: E402
from tests.accelerate.models import make, tokens  # noqa: E402
from tests.support.reports import restored_names  # noqa: E402


def test_packed_sequences_are_refused_as_before() -> None:
    mixer = accelerate(make("Mamba2")).backbone.layers[0].mixer
    with pytest.raises(ValueError, match="can't keep packed sequences apart"):
        mixer(torch.randn(1, 6, 32), seq_idx=torch.tensor([[0, 0, 1, 1, 1, 1]]))


def test_another_activation_of_the_convolution() -> None:
    model, x = make("Mamba", hidden_act="gelu"), tokens(2, 9)
    expected = model(x).logits
    found = accelerate(model)(x).logits
    assert not torch.equal(found, expected)  # the scan is ours
    torch.testing.assert_close(found, expected)


def test_a_step_with_a_gradient() -> None:
    """A step changes its state in place, so the original function runs, and gives a gradient."""

    def gradient(model: Any) -> Any:
        x = tokens(1, 5)
        with torch.no_grad():
            cache = model(x[:, :4], use_cache=True).cache
        model(x[:, 4:], cache=cache, use_cache=True).logits.square().sum().backward()
        return model.model.layers[0].conv.in_proj.weight.grad

    expected, found = gradient(make("Lfm2")), gradient(accelerate(make("Lfm2")))
    assert expected.abs().sum() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["Rwkv", "MiniMax"])
def test_a_single_step_in_training(name: str) -> None:
    """The original is faster for one step with gradients, and runs."""

    def results(model: Any, time: int) -> list[Any]:
        logits = model(tokens(2, time), use_cache=False).logits
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()), allow_unused=True)
        return [logits, *(g for g in gradients if g is not None)]

    for time in (1, 9):
        expected, found = results(make(name), time), results(accelerate(make(name)), time)
        if time == 1:
            assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected)) == (time == 1)


@pytest.mark.parametrize("name", ["Mamba", "Mamba2", "Qwen3Next", "KimiLinear", "MiniMax", "xLSTM", "Lfm2"])
def test_a_prompt_in_two_parts(name: str) -> None:
    """The second part starts from the states of the first."""

    def logits(model: Any) -> Any:
        x, found, cache = tokens(2, 40), [], None
        with torch.no_grad():
            for part in (x[:, :23], x[:, 23:39], x[:, 39:]):
                output = model(part, use_cache=True, cache=cache)
                cache = output.cache
                found.append(output.logits)
        return torch.cat(found, 1)

    torch.testing.assert_close(logits(accelerate(make(name))), logits(make(name)), rtol=1e-4, atol=1e-5)


# ---- The back ends of mlstm_kernels ---------------------------------------------------------------------------------


def backend(**options: Any) -> Any:
    module = import_module("mlstm_kernels.torch.backend_module")
    kernels = {"chunkwise_kernel": "chunkwise--native_autograd", "sequence_kernel": "native_sequence__native"}
    every = {**kernels, "step_kernel": "native", "chunk_size": 16, "autocast_kernel_dtype": "float32", **options}
    return module.mLSTMBackend(module.mLSTMBackendConfig(**every))


def inputs(time: int) -> dict[str, Any]:
    torch.manual_seed(0)
    made = {"q": torch.randn(2, 2, time, 8), "k": torch.randn(2, 2, time, 8), "v": torch.randn(2, 2, time, 4)}
    gates = {"i": torch.randn(2, 2, time), "f": torch.randn(2, 2, time) + 2}
    return {name: x.requires_grad_() for name, x in (made | gates).items()}


def gradients(module: Any, given: dict[str, Any], **options: Any) -> list[Any]:
    h = module(**given, **options)
    h = h if isinstance(h, torch.Tensor) else h[0]
    return [h, *torch.autograd.grad(h.square().sum(), list(given.values()))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kernel", ["native_autograd", "native_custbw"])
def test_mlstm_kernels_in_training(kernel: str) -> None:
    """Gradients, too, are those of the chosen kernel; some treat the divisor as a constant."""
    pytest.importorskip("mlstm_kernels")
    module = backend(chunkwise_kernel=f"chunkwise--{kernel}", mode="train", return_last_states=False)
    expected = gradients(module, inputs(32))
    report = accelerate(module, return_report=True)[1]
    assert report.accelerated == {"": "mLSTMBackend, forward by fastiter.torch.ssm.mlstm"}
    found = gradients(module, inputs(32))
    assert not torch.equal(found[0], expected[0])
    for a, e in zip(found, expected, strict=True):
        assert (a - e).norm() <= 2**-12 * e.norm()
    assert gradients(module, inputs(21))[0].shape == (2, 2, 21, 4)  # not a whole number of chunks
    assert restored_names(module) == [""]
    assert torch.equal(gradients(module, inputs(32))[0], expected[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_mlstm_kernels_in_inference() -> None:
    pytest.importorskip("mlstm_kernels")
    module, given = backend(mode="inference"), {name: x.detach() for name, x in inputs(33).items()}
    results = []
    for _ in range(2):
        h, states = module(**{name: x[:, :, :32] for name, x in given.items()})
        named = dict(zip(("c_initial", "n_initial", "m_initial"), states, strict=True))
        last, after = module(**{name: x[:, :, 32:] for name, x in given.items()}, **named)
        results.append((h, *states, last, *after))
        accelerate(module)
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="Unknown mode"):
        module(**given, mode="other")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_other_kernels_are_left_unchanged() -> None:
    """A kernel with another input gate computes something else."""
    pytest.importorskip("mlstm_kernels")
    module = backend(chunkwise_kernel="parallel--native_siging_autograd", mode="train", return_last_states=False)
    report = accelerate(module, return_report=True)[1]
    assert not report.accelerated
    assert report.left[""] == "its forward computes something else than before"
