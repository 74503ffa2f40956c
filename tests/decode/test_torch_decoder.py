"""Decoder: steps and prompts against transformers in float64, states, generation, and weights of the model."""

from __future__ import annotations

import contextlib
import copy
import inspect
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.24")

from fastiter import get_num_threads, set_num_threads  # noqa: E402
from fastiter.decode._torch.cache import new_cache  # noqa: E402
from fastiter.decode._torch.plans import STARTS_ANEW  # noqa: E402
from fastiter.torch import Decoder  # noqa: E402
from tests.decode.models import MAIN, OPTIONS, VOCABULARY, exact, make, tokens  # noqa: E402

FORMATS = ["bf16", "int8", "int4", "nf4", "mxfp4", "mxfp8", "nvfp4"]
#: Error against the logits of transformers in float64 on the decoder's own numbers, relative to the largest
TOLERANCE = 1e-5
#: In addition, this many times the difference of transformers in float32 itself: where a state reads almost nothing,
#: the norm after it amplifies the rounding of any order of sums, up to 100 times in models this narrow
MULTIPLE = 4


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread: models this small are slower with more."""
    torch.set_num_threads(1)


def single(name: str = "Mamba", variant: str = "", **options: Any) -> Any:
    return make(name, variant, **options).float()


def dequantized(model: Any, name: str, variant: str) -> Any:
    """Return a model in float64 with the numbers of another whose weights are packed."""
    result = make(name, variant)
    result.load_state_dict({key: x.double() for key, x in model.state_dict().items()})
    return result


def their_logits(model: Any, sequence: Any, prompt: int) -> Any:
    """Return transformers' logits after a prompt and after each of the tokens that follow."""
    return logits_at(model, sequence, [prompt, *range(prompt + 1, sequence.shape[1] + 1)])


def logits_at(model: Any, sequence: Any, ends: list[int]) -> Any:
    """Return transformers' logits after calls that end at these tokens."""
    knows_positions = "position_ids" in inspect.signature(model.forward).parameters
    cache, result = new_cache(model.config, len(sequence), model.dtype), []
    with torch.no_grad(), exact(model) if model.dtype == torch.float64 else contextlib.nullcontext():
        for first, last in pairwise([0, *ends]):
            if last > first:
                where = {"position_ids": torch.arange(first, last).expand(len(sequence), -1)} if knows_positions else {}
                output = model(sequence[:, first:last], cache=cache, use_cache=True, **where)
                result.append(output.logits[:, -1])
    return torch.stack(result, 1)


def our_logits(decoder: Any, sequence: Any, prompt: int) -> Any:
    result = [decoder.prefill(sequence[:, :prompt])] if prompt else []
    return torch.stack([*result, *(decoder.step(token) for token in sequence[:, prompt:].unbind(1))], 1)


def check_steps(decoder: Any, model: Any, whole: Any, sequence: Any, prompt: int) -> None:
    """Compare with transformers in float64; ``model`` has the same numbers in float32.

    Where steps are ill-conditioned, the error of ``model`` may be small by luck. What a change of each parameter by at
    most half a unit of float32 does is then the scale, too.
    """
    ours, theirs = our_logits(decoder, sequence, prompt), their_logits(whole, sequence, prompt)

    def error(logits: Any) -> float:
        return float((logits - theirs).abs().max() / theirs.abs().max())

    rounding = error(their_logits(model, sequence, prompt))
    if error(ours) > TOLERANCE + MULTIPLE * rounding:
        rounding = max(rounding, *(error(their_logits(rounded(whole, seed), sequence, prompt)) for seed in range(3)))
    check(ours, theirs, TOLERANCE + MULTIPLE * rounding)


def rounded(whole: Any, seed: int) -> Any:
    """Return a copy with each parameter changed at random by at most half a unit of float32."""
    rng, result = torch.Generator().manual_seed(seed), copy.deepcopy(whole)
    with torch.no_grad():
        for x in result.parameters():
            x.mul_(1 + 2**-24 * (2 * torch.rand(x.shape, generator=rng, dtype=x.dtype) - 1))
    return result


def check(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(
        ours.double().numpy(), theirs.numpy(), rtol=0, atol=tolerance * float(theirs.abs().max())
    )


@pytest.mark.parametrize(("name", "variant"), OPTIONS, ids=lambda x: x)
def test_steps_after_prompts_equal_transformers_on_the_packed_numbers(name: str, variant: str) -> None:
    model = single(name, variant)
    decoder = Decoder(model, weights={"*experts*": "int4", "*": "int8"} if "xperts" in str(model) else "int8")
    whole = dequantized(model, name, variant)
    for rows, prompt, steps in ((2, 0, 12), (1, 5, 8), (3, 23, 6))[: None if (name, variant) in MAIN else 1]:
        prompt = prompt if decoder.plan.prompts else max(prompt, 1)
        sequence = tokens(rows, prompt + steps)
        decoder.reset()
        check_steps(decoder, model, whole, sequence, prompt)


@pytest.mark.parametrize(("name", "fmt"), [*(("FalconMamba", fmt) for fmt in FORMATS), ("Qwen3_5", "int4")])
def test_formats(name: str, fmt: str) -> None:
    model = single(name, hidden_size=64)
    decoder = Decoder(model, weights=fmt)
    assert {layer.format for layer in decoder.report.layers} <= {fmt, "f32"}
    whole = make(name, hidden_size=64)
    whole.load_state_dict({key: x.double() for key, x in model.state_dict().items()})
    check_steps(decoder, model, whole, tokens(2, 10), 0)


@pytest.mark.parametrize("name", ["Mamba", "Qwen3_5", "FalconH1"])
def test_models_in_float64_keep_its_precision(name: str) -> None:
    model, sequence = make(name), tokens(2, 9)
    decoder = Decoder(model, keep=True)
    check(our_logits(decoder, sequence, 0), their_logits(model, sequence, 0), 1e-12)


def test_models_in_bfloat16_have_activations_in_float32() -> None:
    model = make("Qwen3_5")
    for x in model.parameters():
        x.data = x.data.bfloat16()
    whole = make("Qwen3_5")
    whole.load_state_dict({key: x.double() for key, x in model.state_dict().items()})
    decoder = Decoder(model)
    assert {layer.format for layer in decoder.report.layers} == {"bf16"}
    for prompt in (0, 20):
        decoder.reset()
        check_steps(decoder, copy.deepcopy(whole).float(), whole, tokens(1, prompt + 9), prompt)


@pytest.mark.parametrize("name", ["Mamba", "Qwen3_5", "FalconH1"])
def test_bits_depend_on_neither_threads_nor_other_rows(name: str) -> None:
    model, sequence = single(name), tokens(8, 6)
    decoder = Decoder(model, weights="int8", threads=1)
    expected = our_logits(decoder, sequence, 0)
    before = get_num_threads()
    for threads in (1, 2, 3):
        set_num_threads(threads)
        other = Decoder(single(name), weights="int8", threads=None if threads == 1 else threads)
        assert torch.equal(our_logits(other, sequence, 0), expected)
    set_num_threads(before)
    for rows in ([3], [5, 0], [1, 2, 3, 4, 5]):
        decoder.reset()
        assert torch.equal(our_logits(decoder, sequence[rows], 0), expected[rows])


def test_the_format_of_the_head_and_patterns() -> None:
    model = single("Qwen3_5", hidden_size=64)
    report = Decoder(model, weights={"*mlp*": "mxfp4", "*.q_proj": None, "*": "int8"}, head="bf16", keep=True).report
    formats = {layer.name: layer.format for layer in report.layers}
    assert formats["model.layers.0.mlp.up_proj.weight"] == "mxfp4"
    assert formats["model.layers.2.self_attn.q_proj.weight"] == "f32"
    assert formats["model.layers.2.self_attn.k_proj.weight"] == "int8"
    assert formats["lm_head.weight"] == "bf16"
    assert report.bytes == sum(layer.bytes for layer in report.layers) >= report.bytes_per_token / 2 > 0
    assert "mxfp4" in str(report) and "MB" in str(report)
    grouped = {layer.name: layer.bytes for layer in Decoder(model, weights="int8", group=8, keep=True).report.layers}
    halves = {layer.name: layer.bytes for layer in Decoder(model, weights="int8", group=32, keep=True).report.layers}
    assert grouped["model.layers.0.mlp.up_proj.weight"] > halves["model.layers.0.mlp.up_proj.weight"]


# ---- States ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Mamba", "Qwen3_5", "FalconH1", "Lfm2"])
def test_states_are_saved_forked_and_exchanged_with_caches(name: str) -> None:
    model = single(name)
    decoder, sequence = Decoder(model, keep=True), tokens(3, 12)
    decoder.prefill(sequence[:, :5])
    saved, cache, forked = decoder.state(), decoder.cache(), decoder.fork([2, 0, 2])
    with torch.no_grad():
        theirs = model(sequence[:, 5:6], cache=cache, use_cache=True).logits[:, -1]
    decoder.load_state(saved)  # the model has changed the memory that the cache shares
    expected = our_logits(decoder, sequence[:, 5:], 0)
    check(theirs, expected[:, 0].double())
    decoder.load_state(saved)
    assert torch.equal(our_logits(decoder, sequence[:, 5:], 0), expected)
    assert torch.equal(our_logits(forked, sequence[[2, 0, 2], 5:], 0), expected[[2, 0, 2]])

    cache = new_cache(model.config, 3, torch.float32)
    with torch.no_grad():
        model(sequence[:, :5], cache=cache, use_cache=True)
    decoder.from_cache(cache)
    check(our_logits(decoder, sequence[:, 5:], 0), expected.double())


@pytest.mark.parametrize(("name", "variant"), MAIN, ids=lambda x: x)
def test_more_tokens_after_a_prompt_equal_those_of_transformers(name: str, variant: str) -> None:
    """Where transformers' classes start anew, those of its steps."""
    model, sequence = single(name, variant), tokens(2, 24)
    whole, starts_anew = make(name, variant), f"{name}ForCausalLM" in STARTS_ANEW
    decoder, ends = Decoder(model, keep=True), [12, *range(13, 25)] if starts_anew else [12, 24]
    decoder.prefill(sequence[:, :12])
    ours = decoder.prefill(sequence[:, 12:])
    theirs = logits_at(whole, sequence, ends)[:, -1]
    rounding = float((logits_at(model, sequence, ends)[:, -1] - theirs).abs().max() / theirs.abs().max())
    check(ours, theirs, TOLERANCE + MULTIPLE * rounding)


def test_more_tokens_than_there_is_memory_for_at_first() -> None:
    model = single("Qwen3_5")
    check_steps(Decoder(model, keep=True), model, make("Qwen3_5"), tokens(1, 150), 0)


# ---- Generation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Mamba", "Qwen3_5"])
def test_the_most_probable_tokens(name: str) -> None:
    decoder, prompt = Decoder(single(name)), tokens(2, 4)
    found = decoder.generate(prompt, 9)
    assert torch.equal(found[:, :4], prompt) and found.shape == (2, 13)
    decoder.reset()
    token = decoder.prefill(prompt).argmax(-1)
    for expected in found[:, 4:].unbind(1):
        assert torch.equal(token, expected)
        token = decoder.step(token).argmax(-1)


def test_tokens_one_by_one_are_those_of_one_call() -> None:
    decoder, prompt, seen = Decoder(single("Qwen3_5")), tokens(2, 4), []
    options = {"temperature": 1.3, "top_k": 20, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.2}
    found = decoder.generate(prompt, 12, rng=3, **options)
    decoder.reset()
    assert torch.equal(decoder.generate(prompt, 12, rng=3, on_token=lambda x: seen.append(x.clone()), **options), found)
    assert torch.equal(torch.stack(seen, 1), found[:, 4:])
    decoder.reset()
    assert decoder.generate(prompt, 12, rng=3, on_token=lambda x: True, **options).shape == (2, 5)
    decoder.reset()
    assert not torch.equal(decoder.generate(prompt, 12, rng=4, **options), found)
    decoder.reset()
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(decoder.generate(prompt, 12, rng=generator, **options), found)


def test_a_generation_continues_the_sequences() -> None:
    decoder, prompt = Decoder(single("Qwen3_5")), tokens(1, 4)
    whole = decoder.generate(prompt, 10)
    decoder.reset()
    first = decoder.generate(prompt, 4)
    assert torch.equal(decoder.generate(first[:, -1:], 6)[:, 1:], whole[:, 8:])


def test_sequences_that_have_ended_are_padded() -> None:
    decoder, prompt = Decoder(single("Mamba")), tokens(3, 4)
    whole = decoder.generate(prompt, 12)[:, 4:]
    stop = int(whole[0, 3])
    decoder.reset()
    found = decoder.generate(prompt, 12, stop=stop)[:, 4:]
    seen = []
    decoder.reset()
    assert torch.equal(decoder.generate(prompt, 12, stop=[stop], on_token=seen.append)[:, 4:], found)
    for row, all_of_row in zip(found.tolist(), whole.tolist(), strict=True):
        end = all_of_row.index(stop) + 1 if stop in all_of_row else len(row)
        assert row[:end] == all_of_row[: min(end, len(row))] and set(row[end:]) <= {0}


def test_draws_follow_transformers_processors() -> None:
    """Frequencies of the first token, against the probabilities after transformers' own processors."""
    model, prompt = single("Mamba"), tokens(1, 5)
    options = {"temperature": 1.5, "top_k": 12, "top_p": 0.8, "min_p": 0.05}
    decoder = Decoder(model)
    scores = decoder.prefill(prompt).double()
    for warper in (
        transformers.TemperatureLogitsWarper(1.5),
        transformers.TopKLogitsWarper(12),
        transformers.TopPLogitsWarper(0.8),
        transformers.MinPLogitsWarper(0.05),
    ):
        scores = warper(prompt, scores)
    expected = scores.softmax(-1)[0]
    rng, draws = torch.Generator().manual_seed(0), 500
    counts = torch.zeros(VOCABULARY, dtype=torch.float64)
    for _ in range(draws // 8):
        decoder.reset()
        counts += torch.bincount(
            decoder.generate(prompt.expand(8, -1), 1, rng=rng, **options)[:, -1], minlength=VOCABULARY
        )
    frequencies = counts / counts.sum()
    assert set(counts.nonzero()[:, 0].tolist()) <= set(expected.nonzero()[:, 0].tolist())
    deviation = (expected * (1 - expected) / counts.sum()).sqrt()
    assert bool(((frequencies - expected).abs() <= 5 * deviation).all())


# ---- The model ------------------------------------------------------------------------------------------------------


def test_a_model_that_drops_its_weights_still_computes() -> None:
    model, sequence = single("Qwen3_5"), tokens(2, 11)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    kept = single("Qwen3_5")
    Decoder(kept, weights="int8", keep=True)
    assert all(torch.equal(x, before[key]) for key, x in kept.state_dict().items())
    decoder = Decoder(model, weights="int8")
    assert "model.layers.0.mlp.up_proj.weight" not in dict(model.named_parameters())
    after = model.state_dict()
    assert set(after) == set(before)
    weight = after["model.layers.0.mlp.up_proj.weight"]
    assert 0 < float((weight - before["model.layers.0.mlp.up_proj.weight"]).abs().max()) < 0.02
    with torch.no_grad():
        check(model(sequence).logits[:, -1], decoder.prefill(sequence).double(), 10 * TOLERANCE)
    with pytest.raises(TypeError, match=r"must be saved by its state_dict, got pickle"):
        __import__("pickle").dumps(model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": "int3"}, ValueError, r"Decoder: weights must be one of f32, .*, got 'int3'"),
        ({"weights": 8}, TypeError, r"Decoder: weights must be a format of fastiter.quant or its name, got int"),
        ({"weights": {3: "int8"}}, TypeError, r"weights must have patterns that are str, got int"),
        ({"weights": {"*nothing*": "int8"}}, ValueError, r"weights\['\*nothing\*'\] must match a layer .*, got none"),
        ({"head": "f64"}, ValueError, r"weights must be f64 for a model in float64, and only then, got f64"),
        ({"weights": "int8", "group": 3}, ValueError, r"group must be a multiple of 4 for int8, got 3"),
        ({"keep": 1}, TypeError, r"Decoder: keep must be a bool"),
        ({"threads": 0}, ValueError, r"Decoder: threads must be"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = single()
    with pytest.raises(error, match=message):
        Decoder(model, **options)
    assert "backbone.layers.0.mixer.in_proj.weight" in dict(model.named_parameters())


def test_models_that_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Decoder: model must be a torch.nn.Module, got int"):
        Decoder(3)
    with pytest.raises(ValueError, match=r"Decoder: model must be in eval mode \(model.eval\(\)\)"):
        Decoder(single().train())
    with pytest.raises(TypeError, match=r"Decoder: model must be one of .*, got torch.nn.modules.linear.Linear"):
        Decoder(torch.nn.Linear(2, 2).eval())
    infinite = single()
    infinite.lm_head.weight[3, 2] = torch.inf
    with pytest.raises(ValueError, match=r"Decoder: .*weight must have finite numbers of int8, got inf"):
        Decoder(infinite, weights="int8")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: d.step(torch.tensor([37])), ValueError, r"step: tokens must be from 0 to 36, got 37"),
        (lambda d: d.prefill(torch.full((1, 20), -1)), ValueError, r"prefill: tokens must be from 0 to 36, got -1"),
        (lambda d: d.step(torch.tensor([1.0])), TypeError, r"step: tokens must be an int64 tensor on the CPU, got"),
        (lambda d: d.step(torch.tensor([[1]])), ValueError, r"step: tokens must have shape \(B,\), got \(1, 1\)"),
        (lambda d: d.prefill(torch.ones(1, 0, dtype=torch.int64)), ValueError, r"\(B, T\) with T >= 1, got \(1, 0\)"),
        (
            lambda d: d.step(torch.ones(9, dtype=torch.int64)),
            ValueError,
            r"1 to 8 rows \(accelerate has no limit\), got 9",
        ),
        (
            lambda d: (d.step(tokens(2, 1)[:, 0]), d.step(tokens(1, 1)[:, 0])),
            ValueError,
            r"must have 2 rows, .*, got 1",
        ),
        (lambda d: d.fork(), ValueError, r"fork: a token must have been read before, got none"),
        (lambda d: (d.step(tokens(2, 1)[:, 0]), d.fork([2])), ValueError, r"fork: rows must be from 0 to 1, got \[2\]"),
        (lambda d: d.load_state({"length": 1}), ValueError, r"load_state: state must have the entries .*, got length"),
        (lambda d: d.generate(tokens(1, 2), 0), ValueError, r"generate: max_new_tokens must be"),
        (lambda d: d.generate(tokens(1, 2), 2, temperature=0), ValueError, r"temperature must be positive, got 0"),
        (lambda d: d.generate(tokens(1, 2), 2, top_p=1.5), ValueError, r"top_p must be in \(0, 1\], got 1.5"),
        (lambda d: d.generate(tokens(1, 2), 2, min_p=-1), ValueError, r"min_p must be in \[0, 1\], got -1"),
        (lambda d: d.generate(tokens(1, 2), 2, stop="x"), TypeError, r"stop must be a token or a sequence of tokens"),
        (
            lambda d: d.generate(tokens(1, 2), 2, rng="x"),
            TypeError,
            r"rng must be an int or a torch.Generator, got str",
        ),
    ],
)
def test_calls_that_are_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(Decoder(single()))
