"""The models of the family decode, and everything that computes their steps."""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastiter.torch
from bench.harness import gate
from bench.harness.peers import load
from fastiter.decode._torch.cache import new_cache

FORMATS = ("f32", "bf16", "int8", "int4", "nf4", "mxfp4", "mxfp8", "nvfp4")
TRANSFORMERS, ACCELERATE, DECODE, OURS = "transformers", "accelerate", "accelerate(decode)", "Decoder"
PROMPT = 4  # tokens before the step whose logits are compared
_ACTIVATIONS = 32  # roundings of a layer that add up like a random walk, if activations are narrow

Step = Callable[[Tensor], Tensor]  # tokens (B,) to logits (B, vocabulary)
Start = Callable[[Tensor], Step]  # reads a prompt (B, T)


class Shape(NamedTuple):
    """The config of a model, and what is different in a quick run."""

    name: str
    options: Mapping[str, Any]
    quick: Mapping[str, Any]

    def config(self, quick: bool) -> dict[str, Any]:
        return {**self.options, **(self.quick if quick else {}), "eos_token_id": None}


def _qwen(width: int, layers: int, inner: int, heads: tuple[int, int], value_heads: int) -> Shape:
    options = {
        "vocab_size": 248320,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    }
    quick = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4}
    return Shape("Qwen3_5", options, quick)


MODELS = {
    "mamba-130m": Shape(
        "Mamba",
        {"vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16},
        {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2},
    ),
    "mamba2-130m": Shape(
        "Mamba2",
        {
            "vocab_size": 50288,
            "hidden_size": 768,
            "num_hidden_layers": 24,
            "num_heads": 24,
            "head_dim": 64,
            "state_size": 128,
            "n_groups": 1,
            "tie_word_embeddings": True,
        },
        {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2},
    ),
    "Qwen3.5-0.8B": _qwen(1024, 24, 3584, (8, 2), 16),
    "Qwen3.5-4B, 8 of 32 layers": _qwen(2560, 8, 9216, (16, 4), 32),
}


def without_fla() -> None:
    """Hide flash-linear-attention, from which transformers' models would take kernels that need a GPU."""
    sys.modules.setdefault("fla", None)  # type: ignore[arg-type]


def build(shape: Shape, quick: bool) -> Any:
    """Return a model in float32 with random weights, whose activations are neither tiny nor large."""
    transformers = load("transformers")
    assert transformers is not None  # main has checked it
    transformers.logging.set_verbosity_error()
    without_fla()
    torch.manual_seed(0)
    kind = "TextConfig" if shape.name == "Qwen3_5" else "Config"
    config = getattr(transformers, shape.name + kind)(**shape.config(quick))
    model = getattr(transformers, f"{shape.name}ForCausalLM")(config).eval().requires_grad_(False)
    for name, x in model.named_parameters():
        if x.dim() > 1 and not name.endswith("A_log"):
            x.normal_(0.0, x[0].numel() ** -0.5)
    return model


def shared(model: Any) -> Any:
    """Return a copy whose modules are new and whose tensors are the model's."""
    return copy.deepcopy(model, {id(x): x for x in (*model.parameters(), *model.buffers())})


def with_weights(model: Any, weights: Mapping[str, Tensor]) -> Any:
    """Return a copy of a model with other tensors."""
    result = shared(model)
    result.load_state_dict(weights, assign=True)
    return result


def bytes_of(model: Any) -> int:
    """Return the bytes of a model's parameters, without a table that is only looked up."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    read = [x for x in model.parameters() if x is head or x is not table]
    return sum(x.numel() * x.element_size() for x in read)


def state_bytes(decoder: Any) -> int:
    """Return the bytes of a sequence's states in float32, without keys and values."""
    return sum(4 * math.prod(state.shape) for state in decoder.plan.states if state.kind not in ("keys", "values"))


# ---- The gate -------------------------------------------------------------------------------------------------------


def tolerance(model: Any, dtype: torch.dtype) -> float:
    """Return the permitted error of logits relative to the largest one, in a model whose activations have a dtype."""
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    if dtype == torch.float32:
        return gate.tolerance(dtype, layers * width)
    return float(torch.finfo(dtype).eps) * (_ACTIVATIONS * layers) ** 0.5


@torch.no_grad()
def logits_of(start: Start, tokens: Tensor) -> Tensor:
    """Return the logits after all tokens, the last of which is a step."""
    return start(tokens[:, :-1])(tokens[:, -1])


# ---- The entrants ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Entrant:
    """A model as something that computes its steps.

    ``expected`` are the logits that transformers computes in float32 with the same numbers. A step reads ``nbytes`` of
    weights, and ``state_nbytes`` of states for each sequence where that is known.
    """

    name: str
    start: Start
    expected: Tensor
    tolerance: float
    nbytes: int
    state_nbytes: int = 0

    def check(self, logits: Tensor) -> float:
        """Raise if logits of the first rows are wrong; else return their difference."""
        error = gate.difference(logits.float(), self.expected[: len(logits)])
        if not error <= self.tolerance:
            raise gate.GateError(
                f"{self.name}: logits are off by {error:.1e} of the largest value, more than {self.tolerance:.1e}"
            )
        return error


def start_model(model: Any) -> Start:
    """Return the loop of a user of transformers, with its cache, and with positions where models take them.

    By default some models count positions from their first layer's cache, which has no length where it is recurrent.
    The cache is given from the first call on, as ``generate`` does: outputs of RecurrentGemma have none.
    """
    takes_positions = "position_ids" in inspect.signature(type(model).forward).parameters

    def start(prompt: Tensor) -> Step:
        cache, places = new_cache(model.config, len(prompt), model.dtype), count(prompt.shape[1])
        model(prompt, cache=cache, use_cache=True)

        def step(tokens: Tensor) -> Tensor:
            where = {"position_ids": torch.full((len(tokens), 1), next(places))} if takes_positions else {}
            logits: Tensor = model(tokens[:, None], cache=cache, use_cache=True, **where).logits
            return logits[:, -1]

        return step

    return start


def start_decoder(decoder: Any) -> Start:
    def start(prompt: Tensor) -> Step:
        decoder.reset()
        decoder.prefill(prompt)
        step: Step = decoder.step
        return step

    return start


def by_transformers(model: Any, tokens: Tensor) -> Iterator[Entrant]:
    """Yield the unchanged and the accelerated model, in float32 and bfloat16."""
    expected = logits_of(start_model(model), tokens)
    narrow = with_weights(model, {name: x.bfloat16() for name, x in model.state_dict().items()})
    for fmt, each, dtype in (("f32", model, torch.float32), ("bf16", narrow, torch.bfloat16)):
        limit = tolerance(model, dtype)
        yield Entrant(f"{TRANSFORMERS} {fmt}", start_model(each), expected, limit, bytes_of(each))
        fast = fastiter.torch.accelerate(shared(each))
        yield Entrant(f"{ACCELERATE} {fmt}", start_model(fast), expected, limit, bytes_of(each))


def by_decoder(model: Any, tokens: Tensor, fmt: str) -> Iterator[Entrant]:
    """Yield a decoder, and the model whose steps are a decoder's."""
    lent = shared(model)
    decoder = fastiter.torch.Decoder(lent, weights=fmt)
    exact = model if fmt == "f32" else with_weights(model, lent.state_dict())
    expected = logits_of(start_model(exact), tokens)
    limit, states = tolerance(model, torch.float32), state_bytes(decoder)
    nbytes = decoder.report.bytes_per_token - states
    yield Entrant(f"{OURS} {fmt}", start_decoder(decoder), expected, limit, nbytes, states)
    if fmt == "int8":  # the call around a step takes the same time in all formats
        fast = fastiter.torch.accelerate(shared(model), decode=fmt)
        yield Entrant(f"{DECODE} {fmt}", start_model(fast), expected, limit, nbytes, states)
