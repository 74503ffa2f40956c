"""ParaGRU, ParaLSTM, LinearRNN and DeltaNet as modules: layouts, streaming, gradients, torch's module machinery."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import nn as ours  # noqa: E402

I, H, T, B = 4, 6, 7, 3
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ParaGRU": ("ParaGRU", {}),
    "ParaGRU of two heads": ("ParaGRU", {"num_heads": 2}),
    "ParaLSTM": ("ParaLSTM", {}),
    "ParaLSTM of two heads, no bias": ("ParaLSTM", {"num_heads": 2, "bias": False}),
    "LinearRNN": ("LinearRNN", {}),
    "LinearRNN, positive": ("LinearRNN", {"eigenvalues": "positive"}),
    "LinearRNN, complex": ("LinearRNN", {"eigenvalues": "complex"}),
    "LinearRNN, constant": ("LinearRNN", {"input_dependent": False}),
    "DeltaNet": ("DeltaNet", {"num_heads": 2}),
    "DeltaNet, no convolution": ("DeltaNet", {"num_heads": 2, "conv_size": 0}),
    "DeltaNet, two factors": ("DeltaNet", {"num_householder": 2, "key_size": 3}),
    "DeltaNet, gated": ("DeltaNet", {"num_heads": 3, "decay": True, "output_gate": True}),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def make(name: str, **more: Any) -> Any:
    kind, options = LAYERS[name]
    torch.manual_seed(3)
    return getattr(ours, kind)(I, H, **{"dtype": torch.float64, **options, **more})


def batch(*shape: int) -> Any:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def parts(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


def assert_close(actual: Any, expected: Any) -> None:
    """Assert equality within the rounding of sums of some tens of terms of size one."""
    assert torch.allclose(actual, expected, rtol=0, atol=1e-13 * max(1.0, expected.abs().max().item()))


@every_layer
def test_streaming_at_every_split_equals_the_whole(name: str) -> None:
    layer, x = make(name), batch(T, B, I)
    whole, last = layer(x)
    assert whole.shape == (T, B, H)
    for split in range(T + 1):
        first, state = layer(x[:split])
        second, state = layer(x[split:], state)
        assert_close(torch.cat([first, second]), whole)
        for mine, theirs in zip(parts(state), parts(last), strict=True):
            assert_close(mine, theirs)
    state = None
    for t in range(T):
        y, state = layer.step(x[t], state)
        assert_close(y, whole[t])


@every_layer
def test_layouts(name: str) -> None:
    layer, first = make(name), make(name, batch_first=True)
    first.load_state_dict(layer.state_dict())
    x = batch(T, B, I)
    y, last = layer(x)
    swapped, same = first(x.transpose(0, 1))
    assert_close(swapped.transpose(0, 1), y)
    for mine, theirs in zip(parts(same), parts(last), strict=True):
        assert_close(mine, theirs)
    alone, own = layer(x[:, 1])
    assert_close(alone, y[:, 1])
    for mine, theirs in zip(parts(own), parts(last), strict=True):
        assert_close(mine, theirs[1])


@every_layer
def test_ragged_batches(name: str) -> None:
    layer, x, lengths = make(name), batch(T, B, I), [4, 7, 2]
    spoiled = x.clone()
    for b, n in enumerate(lengths):
        spoiled[n:, b] = float("nan")
    y, last = layer(spoiled, lengths=lengths)
    rows = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    packed, packed_last = layer(rows)
    unpacked, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, total_length=T)
    assert_close(unpacked, y)
    for b, n in enumerate(lengths):
        alone, state = layer(x[:n, b])
        assert_close(y[:n, b], alone)
        assert not y[n:, b].any()
        for mine, packed_part, theirs in zip(parts(last), parts(packed_last), parts(state), strict=True):
            assert_close(mine[b], theirs)
            assert_close(packed_part[b], theirs)


@every_layer
def test_gradients(name: str) -> None:
    layer, x = make(name), batch(4, 2, I).requires_grad_()
    _, state = layer(batch(3, 2, I))
    states = [part.detach().requires_grad_() for part in parts(state)]
    names, weights = zip(*layer.named_parameters(), strict=True)

    def f(x: Any, *others: Any) -> Any:
        given, values = others[: len(states)], others[len(states) :]
        first = given[0] if len(given) == 1 else tuple(given)
        y, last = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, first))
        return y, *parts(last)

    assert torch.autograd.gradcheck(f, (x, *states, *weights), fast_mode=True)


@every_layer
def test_a_module_of_torch(name: str) -> None:
    layer, x = make(name), batch(T, B, I)
    y, _ = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], y)
    fresh = make(name)
    fresh.reset_parameters()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x)[0], y)
    single = copy.deepcopy(layer).float()
    assert single(x.float())[0].dtype == torch.float32
    assert make(name, device="meta")._like().device.type == "meta"
    assert f"{I}, {H}" in repr(layer)


@pytest.mark.filterwarnings("ignore")
def test_compiled() -> None:
    """A graph of all layers by Dynamo; with gradients, which take most of the time, of one layer of each class."""
    layers, x = {name: make(name) for name in LAYERS}, batch(T, B, I)
    classes = {kind: name for name, (kind, _) in LAYERS.items()}
    for backend, names in (("eager", LAYERS), ("aot_eager", classes.values())):
        torch._dynamo.reset()
        some = {name: layers[name] for name in names}
        compiled = torch.compile(lambda x: [layer(x)[0] for layer in some.values()], fullgraph=True, backend=backend)  # noqa: B023
        for y, (name, layer) in zip(compiled(x), some.items(), strict=True):
            assert y.shape == layer(x)[0].shape, name
            assert_close(y, layer(x)[0])


@every_layer
def test_no_steps_and_no_rows(name: str) -> None:
    layer = make(name)
    y, state = layer(batch(0, B, I))
    assert y.shape == (0, B, H) and not any(part.any() for part in parts(state))
    assert layer(batch(T, 0, I))[0].shape == (T, 0, H)


@every_layer
def test_wrong_arguments(name: str) -> None:
    layer, x = make(name), batch(T, B, I)
    kind = type(layer).__name__
    for given, error, message in (
        ((x[..., :-1],), ValueError, "input must have input_size"),
        ((x[None],), ValueError, "input must have"),
        ((x.float(),), TypeError, "input must be float64"),
        ((x.numpy(),), TypeError, "input must be a Tensor"),
        ((x, [1]), TypeError, "state must be"),
        ((x, None, [1, 2]), ValueError, "lengths must have shape"),
        ((x, None, [1, 2, T + 1]), ValueError, "lengths must be"),
        ((x[:, 0], None, [1]), ValueError, "lengths must be None"),
    ):
        with pytest.raises(error, match=f"{kind}: {message}"):
            layer(*given)


def test_wrong_options() -> None:
    for kind in ("ParaGRU", "ParaLSTM", "LinearRNN", "DeltaNet"):
        layer = getattr(ours, kind)
        for sizes, error in (((0, 4), ValueError), ((4.0, 4), TypeError), ((True, 4), TypeError)):
            with pytest.raises(error, match=f"{kind}: input_size must be"):
                layer(*sizes)
        with pytest.raises(TypeError, match=f"{kind}: batch_first must be a bool"):
            layer(4, 4, batch_first=1)
    for kind in ("ParaGRU", "ParaLSTM", "DeltaNet"):
        with pytest.raises(ValueError, match=f"{kind}: num_heads must divide"):
            getattr(ours, kind)(4, 4, num_heads=3)
    for kind in ("LinearRNN", "DeltaNet"):
        with pytest.raises(ValueError, match=f"{kind}: eigenvalues must be one of"):
            getattr(ours, kind)(4, 4, eigenvalues="all")


@pytest.mark.parametrize("kind", ["ParaGRU", "ParaLSTM"])
def test_every_method_gives_the_same(kind: str) -> None:
    layer, x = make(kind), batch(50, B, I)
    y, _ = layer(x)
    for method in ("sequential", "newton"):
        layer.method = method
        assert torch.allclose(layer(x)[0], y, rtol=1e-6, atol=1e-8)


def test_the_initialisations_of_the_papers() -> None:
    torch.manual_seed(0)
    gru = ours.ParaGRU(64, 4096)
    assert abs(gru.weight_hh.std().item() * (5 * 4096) ** 0.5 / 2 - 1) < 0.05
    assert torch.equal(gru.bias[0], torch.linspace(0, -1, 4096)) and not gru.bias[1:].any()
    bound = (6 / (64 + 4096)) ** 0.5
    assert 0.99 * bound < gru.weight_ih.abs().max().item() <= bound
    ring = torch.sigmoid(ours.LinearRNN(4, 4096, eigenvalues="complex")._gate()[:4096])
    assert 0 < ring.min() < ring.max() < 1
