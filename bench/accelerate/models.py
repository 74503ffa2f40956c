"""The models of the family accelerate, and the tasks they are timed on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastiter.torch
from bench.harness import gate
from bench.harness.contest import FRESH, REUSED, Absent, Call, Entrant, Results, on_fresh_pages
from bench.harness.peers import absent, load

TRANSFORMERS, MAMBAPY = "transformers", "transformers, use_mambapy"
VOCABULARY = 1000
TRAINED = ("Mamba", "FalconMamba", "Mamba2", "RecurrentGemma", "Qwen3Next", "KimiLinear", "MiniMax", "Rwkv")
MAMBAS = ("Mamba", "FalconMamba")  # models that can use mambapy's scan


class Size(NamedTuple):
    """Width of the model, number of steps of a sequence, and number of sequences."""

    width: int
    time: int
    batch: int = 1


FULL = (Size(256, 512), Size(256, 2048))
WIDE = (Size(512, 2048),)
QUICK = (Size(32, 24),)


def options_of(name: str, width: int) -> dict[str, Any]:
    """Return the options of a model's config, besides its width."""
    attention = {"num_attention_heads": 4, "intermediate_size": 3 * width, "head_dim": width // 4}
    if name == "RecurrentGemma":
        return {**attention, "lru_width": width, "block_types": ["recurrent", "recurrent"]}
    if name == "Qwen3Next":
        heads = {f"linear_num_{what}_heads": 4 for what in ("key", "value")}
        widths = {f"linear_{what}_head_dim": width // 2 for what in ("key", "value")}
        kinds = {"layer_types": 2 * ["linear_attention"] + ["full_attention"], "num_hidden_layers": 3}
        dense = {"num_experts": 0, "mlp_only_layers": [0, 1, 2], "num_key_value_heads": 2}
        return {**attention, **heads, **widths, **kinds, **dense}
    if name == "KimiLinear":
        kinds = {"layer_types": 2 * ["linear_attention"] + ["full_attention"], "num_hidden_layers": 3}
        dense = {"mlp_layer_types": 3 * ["dense"], "num_key_value_heads": 4}
        ranks = {"kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 48, "v_head_dim": width // 4}
        return {**attention, **kinds, **dense, **ranks, "linear_num_heads": 4, "linear_head_dim": width // 2}
    if name == "Mamba2":
        return {"num_heads": width // 32, "head_dim": 64, "state_size": 128, "n_groups": 1}
    if name == "Rwkv":
        return {"attention_hidden_size": width, "context_length": 4096}
    if name == "xLSTM":
        return {"num_heads": 4}
    if name == "MiniMax":
        kinds = {"layer_types": 2 * ["linear_attention"] + ["full_attention"], "num_hidden_layers": 3}
        experts = {"num_local_experts": 1, "num_experts_per_tok": 1, "experts_implementation": "eager"}
        return {**attention, **kinds, **experts, "num_key_value_heads": 4}
    return {"state_size": 16}


def build(name: str, width: int, **options: Any) -> Any:
    """Return a model with random weights, the same ones every time."""
    transformers = load("transformers")
    assert transformers is not None  # main has checked it
    transformers.logging.set_verbosity_error()
    sys.modules.setdefault("fla", None)  # type: ignore[arg-type]  # from which models would take kernels for GPUs
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "hidden_size": width, "num_hidden_layers": 2, "eos_token_id": None}
    tokens = {"pad_token_id": 0, "bos_token_id": 1}
    config = getattr(transformers, f"{name}Config")(**{**common, **tokens, **options_of(name, width), **options})
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


# # ---- The tasks
# ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def logits_of(model: Any, tokens: Tensor) -> Results:
    return {"logits": model(tokens, use_cache=False).logits}


def gradients_of(model: Any, tokens: Tensor) -> Results:
    embedded = model.get_input_embeddings()(tokens).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False).logits
    model.zero_grad()
    cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
    logits.backward(cotangent)
    return {"logits": logits.detach(), "gradient": embedded.grad}


@torch.no_grad()
def next_logits_of(model: Any, tokens: Tensor) -> Results:
    cache = model(tokens[:, :-1], use_cache=True).cache
    return {"logits": model(tokens[:, -1:], cache=cache, use_cache=True).logits}


def train(model: Any, tokens: Tensor) -> None:
    model.zero_grad()
    model(tokens, use_cache=False).logits.sum().backward()


def step_of(model: Any, tokens: Tensor) -> Call:
    """Return a call that decodes one token, with its own cache, which it updates."""
    with torch.no_grad():
        cache = model(tokens[:, :-1], use_cache=True).cache

    @torch.no_grad()
    def step() -> object:
        return model(tokens[:, -1:], cache=cache, use_cache=True)

    return step


@dataclass(frozen=True)
class ModelWork:
    """A task of a model; `call` is what is timed, `results` is what the gate compares."""

    name: str
    model: str
    size: Size
    call: Callable[[Any, Tensor], Call]
    results: Callable[[Any, Tensor], Results]
    products: bool = False

    @cached_property
    def tokens(self) -> Tensor:
        return torch.randint(VOCABULARY, (self.size.batch, self.size.time), generator=torch.Generator().manual_seed(0))

    @cached_property
    def before(self) -> Any:
        return build(self.model, self.size.width)

    @cached_property
    def after(self) -> Any:
        return fastiter.torch.accelerate(copy.deepcopy(self.before), products=self.products)

    @cached_property
    def expected(self) -> Results:
        """The results of the unchanged model in float64, rounded."""
        exact = self.results(copy.deepcopy(self.before).double(), self.tokens)
        return {name: value.float() for name, value in exact.items()}

    def check(self) -> float:
        """Raise if ours is wrong; else return the largest relative difference."""
        return self.compare(self.name, self.results(self.after, self.tokens))

    def compare(self, name: str, results: Results) -> float:
        """Raise if the results are wrong; else return the largest relative difference."""
        return gate.check(name, results, self.expected, self.size.time)

    def forms(self) -> dict[str, Call]:
        """Ours."""
        call = self.call(self.after, self.tokens)
        return {FRESH: on_fresh_pages(call), REUSED: call}


def work_of(task: str, call: Any, results: Any, name: str, size: Size, products: bool = False) -> ModelWork:
    sequences = "" if size.batch == 1 else f", batch {size.batch}"
    return ModelWork(f"{name} {size.width}, {task} {size.time}{sequences}", name, size, call, results, products)


def _now(function: Callable[[Any, Tensor], object], model: Any, tokens: Tensor) -> Call:
    return lambda: function(model, tokens)


sequence = partial(work_of, "T", partial(_now, logits_of), logits_of)
training = partial(work_of, "T", partial(_now, train), gradients_of)
decoding = partial(work_of, "after", step_of, next_logits_of)


def peers_of(work: ModelWork) -> list[Entrant | Absent]:
    """The unchanged model, and Mamba with the parallel scan of mambapy, transformers' fastest for training."""
    peers: list[Entrant | Absent] = [entrant(TRANSFORMERS, work, work.before)]
    if work.model in MAMBAS and work.results is not next_logits_of:
        has_mambapy = load("mambapy.pscan") is not None
        other = build(work.model, work.size.width, use_mambapy=True) if has_mambapy else None
        peers.append(absent(MAMBAPY, "mambapy") if other is None else entrant(MAMBAPY, work, other))
    return peers


def entrant(name: str, work: ModelWork, model: Any) -> Entrant:
    return Entrant(name, work.call(model, work.tokens), lambda: work.results(model, work.tokens))
