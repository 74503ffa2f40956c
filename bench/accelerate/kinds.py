"""The kinds of models and layers that accelerate changes, small: one for each of its rules whose original runs here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.accelerate.episodes import FEATURES, Batch, by_policy, policy_of
from bench.accelerate.models import TRAINED, build
from bench.harness.peers import load

WIDTH, SMALL = 128, 32
#: Layers of torch.nn by name: the class, the sizes and the options
LAYERS: dict[str, tuple[type[nn.Module], tuple[int, int], dict[str, Any]]] = {
    "LSTM 32-64": (nn.LSTM, (32, 64), {}),
    "GRU 64-64": (nn.GRU, (64, 64), {}),
    "RNN 32-64": (nn.RNN, (32, 64), {}),
    "RNN relu 32-64": (nn.RNN, (32, 64), {"nonlinearity": "relu"}),
    "LSTM 256-256": (nn.LSTM, (256, 256), {}),
    "LSTM two layers, both directions": (nn.LSTM, (32, 48), {"num_layers": 2, "bidirectional": True}),
    "LSTM projected": (nn.LSTM, (32, 64), {"proj_size": 16}),
}


class Kind(NamedTuple):
    """A model or layer: how it is built, its input of B sequences of T steps, and its output.

    `cache` is the argument and the result that continue a sequence by single steps, "" if there are none; `products`
    is the option of accelerate.
    """

    name: str
    make: Callable[[], Any]
    inputs: Callable[[int, int], Any]
    output: Callable[[Any, Any], Tensor]
    cache: str = ""
    products: bool = False


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def _first(module: Any, x: Any) -> Tensor:
    result = module(x)
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return out


def of_torch() -> Iterator[Kind]:
    """Layers of torch.nn, and a product."""

    def make(of: type[nn.Module], sizes: tuple[int, int], options: dict[str, Any]) -> nn.Module:
        torch.manual_seed(0)
        return of(*sizes, **options).eval()

    for name, (of, sizes, options) in LAYERS.items():
        yield Kind(name, partial(make, of, sizes, options), lambda B, T, I=sizes[0]: _normal(T, B, I), _first)
    linear = partial(make, nn.Linear, (WIDTH, WIDTH), {})
    yield Kind("Linear, products", linear, lambda B, T: _normal(B, T, WIDTH), _first, products=True)


def of_transformers() -> Iterator[Kind]:
    """The models of the tests, of width 32, and those of the other sections, of width 128."""
    from tests.accelerate.models import OPTIONS, VOCABULARY, make

    def tokens(batch: int, time: int) -> Tensor:
        return torch.randint(2, VOCABULARY, (batch, time), generator=torch.Generator().manual_seed(time))

    def logits(model: Any, x: Tensor) -> Tensor:
        out: Tensor = model(x, use_cache=False).logits
        return out

    def in_training_mode() -> Any:
        model = make("xLSTM")
        model.config.mode = "train"  # in which it has gradients, of whole chunks only
        return model

    caches = {"Rwkv": "state", "RecurrentGemma": ""}  # the latter's layers hold their own states
    for name in OPTIONS:
        built = in_training_mode if name == "xLSTM" else partial(make, name)
        yield Kind(f"{name} {SMALL}", built, tokens, logits, caches.get(name, "cache"))
    for name in TRAINED:
        yield Kind(f"{name} {WIDTH}", partial(build, name, WIDTH), tokens, logits, caches.get(name, "cache"))


def of_older_transformers() -> Iterator[Kind]:
    """Mixers with the shape of those before 5.15."""
    from tests.accelerate import gpu_path_models

    def make(name: str) -> Any:
        torch.manual_seed(0)
        return getattr(gpu_path_models, name)().eval()

    for name in ("MambaMixer",):
        yield Kind(f"older {name}", partial(make, name), lambda B, T: _normal(B, T, 8), _first)


def of_other_packages() -> Iterator[Kind]:
    """Layers of xlstm, mlstm_kernels and mambapy, those that are installed."""
    if load("xlstm") is not None:
        from tests.accelerate.test_torch_xlstm import make as stack

        yield Kind("xlstm, mLSTM and sLSTM", lambda: stack(128).float().eval(), lambda B, T: _normal(B, T, 16), _first)
    if load("mambapy.mamba") is not None:
        from tests.accelerate.test_torch_mambapy import make as mamba

        for parallel in (True, False):
            built = partial(mamba, parallel, torch.float32)
            yield Kind(f"mambapy, pscan {parallel}", built, lambda B, T: _normal(B, T, 16), _first)
    if load("mlstm_kernels") is not None:
        from tests.accelerate.test_torch_fallbacks import backend

        def heads(batch: int, time: int) -> list[Tensor]:
            q, k, v = _normal(3, batch, 2, time, 8).unbind()
            i, f = _normal(2, batch, 2, time).unbind()
            return [x.requires_grad_() for x in (q, k, v, i, f + 2)]

        built = partial(backend, mode="train_with_padding", return_last_states=False)
        yield Kind("mlstm_kernels", built, heads, lambda module, inputs: module(*inputs))
    if load("sb3_contrib") is not None:
        yield Kind("RecurrentPPO 64", policy, lambda B, T: _normal(B, T, FEATURES), run_policy)


def policy() -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = policy_of(Batch(64, 1, 1))
    return made


def run_policy(policy: Any, x: Tensor) -> Tensor:
    """Return the output of a policy's LSTM for rows that begin with an episode, as in a batch of RecurrentPPO."""
    starts, states = torch.zeros(x.shape[:2], dtype=torch.bool), x.new_zeros(x.shape[0], 64)
    starts[:, 0] = x.shape[1] > 1  # single steps are those of rollouts, few of which start an episode
    return by_policy(policy, starts, x, states, states)


def every() -> list[Kind]:
    sys.modules.setdefault("fla", None)  # type: ignore[arg-type]  # from which models would take kernels for GPUs
    return [*of_torch(), *of_transformers(), *of_older_transformers(), *of_other_packages()]
