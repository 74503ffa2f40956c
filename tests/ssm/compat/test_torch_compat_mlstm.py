"""fastiter.torch.compat.mlstm_kernels against the package's own kernels in PyTorch, and in its registries."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mlstm_kernels", reason="its kernels in PyTorch are the reference")

from fastiter.torch import compat  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
ours = compat.mlstm_kernels


def theirs(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(f"mlstm_kernels.torch.{module}"), function)


def inputs(state: bool = False, time: int = 128) -> dict[str, Any]:
    torch.manual_seed(0)
    B, H, K, V = 2, 3, 16, 8
    made = {"q": torch.randn(B, H, time, K), "k": torch.randn(B, H, time, K), "v": torch.randn(B, H, time, V)}
    made |= {"i": torch.randn(B, H, time), "f": torch.randn(B, H, time) + 2}
    if state:
        made |= {"c_initial": torch.randn(B, H, K, V), "n_initial": torch.randn(B, H, K)}
        made["m_initial"] = torch.randn(B, H, 1)
    return made


def close(found: Any, expected: Any, tolerance: float = 2e-4) -> None:
    """Compare within the rounding of float32, as the divisor may be small compared with the terms of its sum."""
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * max(float(e.abs().max()), 1))


def flat(result: Any) -> list[Any]:
    return [result[0], *result[1]]


@pytest.mark.parametrize("state", [False, True])
def test_sequences(state: bool) -> None:
    given = inputs(state)
    options = {"return_last_states": True, "eps": 1e-3}
    found = flat(ours.mlstm_chunkwise(**given, **options))
    close(found, flat(theirs("recurrent.native_sequence:mlstm_recurrent_sequence__native_fw")(**given, **options)))
    close(found, flat(theirs("chunkwise:mlstm_chunkwise__native_autograd")(**given, **options)))
    recurrent = ours.mlstm_recurrent_sequence(**given, **options, dtype_state=torch.bfloat16)
    assert isinstance(recurrent, tuple)
    assert [x.dtype for x in recurrent[1]] == [torch.bfloat16] * 3
    assert torch.equal(ours.mlstm_chunkwise(**given, eps=1e-3), found[0])


@pytest.mark.parametrize("kernel", ["native_autograd", "native_custbw"])
def test_gradients(kernel: str) -> None:
    results = []
    for function in (ours.mlstm_chunkwise, theirs(f"chunkwise:mlstm_chunkwise__{kernel}")):
        leaves = {n: x.requires_grad_() for n, x in inputs().items()}
        options = {"normalizer_gradient": kernel == "native_autograd"} if function is ours.mlstm_chunkwise else {}
        h = function(**leaves, **options)
        torch.manual_seed(1)
        results.append(torch.autograd.grad((h * torch.randn(h.shape)).sum(), list(leaves.values())))
    # Their custom backward pass computes the gates' gradients from those of q and k, and loses a few digits.
    close(*results, tolerance=2e-3 if kernel == "native_autograd" else 1e-2)


def test_a_step() -> None:
    given = inputs(True, time=1)
    step = {n: given[n][:, :, 0] for n in "qkv"} | {n: given[n] for n in "if"}
    step |= {n: given[f"{n}_initial"] for n in "cnm"}
    before = [step[n].clone() for n in "cnm"]
    expected = theirs("recurrent:mlstm_recurrent_step__native")(**step)
    close(flat(ours.mlstm_recurrent_step(**step)), flat(expected))
    assert all(torch.equal(step[n], x) for n, x in zip("cnm", before, strict=True))


def test_the_registries() -> None:
    ours.register()
    package, backend = (import_module(f"mlstm_kernels.torch{name}") for name in ("", ".backend_module"))
    chunkwise, recurrent = (import_module(f"mlstm_kernels.torch.{name}") for name in ("chunkwise", "recurrent"))
    try:
        assert package.get_mlstm_kernel("chunkwise--fastiter") is ours.mlstm_chunkwise
        assert package.get_mlstm_sequence_kernel("fastiter") is ours.mlstm_recurrent_sequence
        assert package.get_mlstm_step_kernel("fastiter") is ours.mlstm_recurrent_step
        config = backend.mLSTMBackendConfig(
            chunkwise_kernel="chunkwise--fastiter", sequence_kernel="fastiter", step_kernel="fastiter", mode="inference"
        )
        native = backend.mLSTMBackendConfig(mode="inference")
        given = inputs(time=100)
        order = [given[n] for n in ("q", "k", "v", "i", "f")]
        results = [backend.mLSTMBackend(c)(*order, return_last_states=True) for c in (config, native)]
        close(flat(results[0])[:1], flat(results[1])[:1])
    finally:
        for registry in (chunkwise.registry, recurrent.registry_sequence, recurrent.registry_step):
            registry.pop("fastiter")


def test_signatures() -> None:
    for function, name in (
        (ours.mlstm_chunkwise, "chunkwise:mlstm_chunkwise__native_custbw"),
        (ours.mlstm_recurrent_sequence, "recurrent.native_sequence:mlstm_recurrent_sequence__native_fw"),
        (ours.mlstm_recurrent_step, "recurrent:mlstm_recurrent_step__native"),
    ):
        found, expected = (
            [(p.name, p.default) for p in inspect.signature(f).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
            for f in (function, theirs(name))
        )
        assert found == expected


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="mlstm_chunkwise: options must be those of mlstm_kernels, got an unexpected"):
        ours.mlstm_chunkwise(**inputs(), colour=1)


def test_errors_have_the_names_and_shapes_of_the_package() -> None:
    given = inputs(state=True)
    step = {n: given[n][:, :, 0] for n in "qkv"} | {n: given[n][..., :1] for n in "if"}
    step |= {n: given[f"{n}_initial"] for n in "cnm"}
    for function, right, wrong in (
        (ours.mlstm_chunkwise, given, ("c_initial", "n_initial", "m_initial")),
        (ours.mlstm_recurrent_sequence, given, ("c_initial", "n_initial", "m_initial")),
        (ours.mlstm_recurrent_step, step, ("c", "n", "m")),
    ):
        for name in ("q", "k", "v", "i", "f", *wrong):
            short = right[name][None]
            got = re.escape(str(tuple(short.shape)))
            with pytest.raises(ValueError, match=rf"^{function.__name__}: {name} must have shape .*got {got}"):
                function(**{**right, name: short})
        for name in ("k", "i", wrong[0]):
            with pytest.raises(TypeError, match=rf"^{function.__name__}: {name} must have dtype .*got torch.float64"):
                function(**{**right, name: right[name].double()})
        with pytest.raises(TypeError, match=rf"^{function.__name__}: v must be a torch.Tensor, got list"):
            function(**{**right, "v": [1.0]})
        with pytest.raises(ValueError, match=rf"^{function.__name__}: eps must be .*got -1.0"):
            function(**right, eps=-1.0)


@pytest.mark.parametrize("function", ["mlstm_chunkwise", "mlstm_recurrent_sequence"])
def test_a_state_without_one_of_its_parts_is_refused(function: str) -> None:
    given = inputs(state=True)
    del given["n_initial"]
    with pytest.raises(ValueError, match=f"^{function}: n_initial must be a tensor if .*, got None"):
        getattr(ours, function)(**given)
