"""accelerate(decode=): generate of transformers on a decoder, its caches, and models as they were after restore."""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", "5.24")

from fastiter.decode._torch import decoder as decoder_module  # noqa: E402
from fastiter.decode._torch.cache import new_cache  # noqa: E402
from fastiter.torch import Decoder, accelerate, restore  # noqa: E402
from tests.decode.models import VOCABULARY, exact, make, tokens  # noqa: E402

NAMES = ["Mamba", "Qwen3_5", "FalconH1", "Lfm2", "RecurrentGemma"]
#: Error of logits, relative to the largest: the roundings of sums of 20 to 64 numbers in float32, in some 30 operations
TOLERANCE = 1e-5
#: In addition, this many times the difference of transformers in float32 from float64: the norms after states that read
#: almost nothing amplify the rounding of any order of sums
MULTIPLE = 4
NEW = 6
WIDE = {"hidden_size": 64, "linear_key_head_dim": 16, "linear_value_head_dim": 32}

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "processors": {
        "do_sample": True,
        "temperature": 1.3,
        "top_k": 20,
        "top_p": 0.95,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[5], [7, 8]],
    },
    "beams": {"do_sample": False, "num_beams": 2, "length_penalty": 0.7},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Use one thread: models this small are slower with more."""
    torch.set_num_threads(1)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each step of a decoder adds its number of rows; those of its trial do not count."""
    rows: list[int] = []
    original, check_equations = Decoder._step, decoder_module.check_equations

    def counted(self: Any, sequences: Any, *args: Any) -> Any:
        rows.append(sequences.rows)
        return original(self, sequences, *args)

    def tried(*args: Any) -> None:
        before = len(rows)
        check_equations(*args)
        del rows[before:]

    monkeypatch.setattr(Decoder, "_step", counted)
    monkeypatch.setattr(decoder_module, "check_equations", tried)
    return rows


def build(name: str) -> Any:
    """Return a model in float64, with heads wide enough that norms after them amplify rounding little."""
    return make(name, **(WIDE if name == "Qwen3_5" else {}))


def single(name: str = "Mamba") -> Any:
    return build(name).float()


def numbers_of(model: Any) -> Any:
    """Return the numbers of a model, or those of the packed weights of an accelerated one."""
    steps = vars(model).get("_fastiter_steps")
    return model.state_dict() if steps is None else steps.decoder._model.state_dict()


def double(name: str, model: Any) -> Any:
    """Return a model in float64 with the numbers of another."""
    result = build(name)
    result.load_state_dict({key: x.double() for key, x in numbers_of(model).items()})
    return result


def generated(model: Any, prompt: Any, **options: Any) -> Any:
    """Return transformers' output, with a cache and the logits of all steps."""
    torch.manual_seed(3)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0, "do_sample": False, **options}
    with exact(model) if model.dtype == torch.float64 else contextlib.nullcontext():
        return model.generate(prompt, return_dict_in_generate=True, output_logits=True, **options)


def logits_of(output: Any) -> Any:
    return torch.stack(output.logits).double()


def check(ours: Any, theirs: Any, rounding: float = 0) -> None:
    tolerance = (TOLERANCE + MULTIPLE * rounding) * float(theirs.abs().max())
    np.testing.assert_allclose(ours.double().numpy(), theirs.double().numpy(), rtol=0, atol=tolerance)


def check_generated(name: str, model: Any, prompt: Any, **options: Any) -> Any:
    """Compare a model with one in float64 of the same numbers, and return its output."""
    whole = double(name, model)
    ours, theirs = generated(model, prompt, **options), generated(whole, prompt, **options)
    plain = generated(copy.deepcopy(whole).float(), prompt, **options)
    rounding = float((logits_of(plain) - logits_of(theirs)).abs().max() / logits_of(theirs).abs().max())
    assert torch.equal(ours.sequences, theirs.sequences)
    check(logits_of(ours), logits_of(theirs), rounding)
    return ours


# ---- transformers' generate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [True, "int8"], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_generate_equals_the_model_on_the_packed_numbers(name: str, decode: Any, steps: list[int]) -> None:
    model = accelerate(single(name), decode=decode)
    prompt = tokens(2, 7)
    check_generated(name, model, prompt, **OPTIONS["greedy"])
    assert steps == (NEW - 1) * [2]
    if name == "RecurrentGemma":  # transformers does not reorder the states in its modules for beams
        return
    for key in ("processors", "beams"):
        steps.clear()
        check_generated(name, model, prompt, **OPTIONS[key])
        assert steps == (NEW - 1) * [4 if key == "beams" else 2]


@pytest.mark.parametrize("name", ["Qwen3_5", "FalconH1", "Lfm2", "RecurrentGemma"])
def test_prompts_with_padding_at_the_left(name: str, steps: list[int]) -> None:
    model, prompt = accelerate(single(name), decode=True), tokens(3, 8)
    mask = torch.ones_like(prompt)
    mask[0, :3] = mask[2, :1] = 0
    output = check_generated(name, model, prompt.masked_fill(mask == 0, 0), attention_mask=mask)
    assert steps == (NEW - 1) * [3]
    if name != "RecurrentGemma":  # in transformers, its recurrences read the padding too
        check(logits_of(output)[:, :1], logits_of(generated(model, prompt[:1, 3:])))


def test_streamers_and_stopping_criteria(steps: list[int]) -> None:
    plain, model, prompt = single("Qwen3_5"), accelerate(single("Qwen3_5"), decode=True), tokens(1, 7)
    expected = generated(plain, prompt).sequences
    stop = int(expected[0, 7 + 2])

    class Streamer(transformers.generation.streamers.BaseStreamer):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def put(self, value: Any) -> None:
            self.seen += value.reshape(-1).tolist()

        def end(self) -> None:
            self.seen.append(-1)

    class Stop(transformers.StoppingCriteria):
        def __call__(self, sequences: Any, scores: Any, **_: Any) -> Any:
            return sequences[:, -1] == stop

    streamer = Streamer()
    found = generated(
        model, prompt, streamer=streamer, stopping_criteria=transformers.StoppingCriteriaList([Stop()])
    ).sequences
    assert torch.equal(found, expected[:, :10]) and streamer.seen == [*found[0].tolist(), -1]
    assert steps == [1, 1]


# ---- Caches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [True, "int8"], ids=str)
@pytest.mark.parametrize("name", ["Qwen3_5", "FalconH1", "Lfm2"])  # whose prompts may follow others
def test_a_chat_goes_on_with_the_cache_of_the_last_call(name: str, decode: Any, steps: list[int]) -> None:
    model, prompt = accelerate(single(name), decode=decode), tokens(1, 6)
    cache = new_cache(model.config, 1, torch.float32)
    first = generated(model, prompt, cache=cache).sequences
    more = torch.cat([first, tokens(1, 5)], 1)
    found = generated(model, more, cache=cache)
    assert steps == 2 * (NEW - 1) * [1]
    whole = generated(double(name, model), more)
    assert torch.equal(found.sequences, whole.sequences)
    check(logits_of(found), logits_of(whole), 1e-5)


class Reader:
    """A model that reads tokens one by one with a cache, next to a copy in float64 that reads them all again."""

    def __init__(self, name: str, decode: Any = True) -> None:
        self.model = accelerate(single(name), decode=decode)
        self.whole = double(name, self.model)

    def step(self, token: Any, cache: Any, **options: Any) -> Any:
        with torch.no_grad():
            return self.model(token, cache=cache, use_cache=True, **options).logits[:, -1]

    def prompt(self, sequence: Any) -> Any:
        cache = new_cache(self.model.config, len(sequence), self.model.dtype)
        self.step(sequence, cache)
        return cache

    def check(self, logits: Any, sequence: Any, rounding: float = 5e-6) -> None:
        with torch.no_grad(), exact(self.whole):
            check(logits, self.whole(sequence).logits[:, -1], rounding)


@pytest.mark.parametrize("name", ["Mamba", "Qwen3_5", "FalconH1", "Lfm2"])
def test_two_conversations_in_turns(name: str, steps: list[int]) -> None:
    reader, first, second = Reader(name), tokens(2, 9), tokens(3, 11)
    caches = [reader.prompt(first[:, :5]), reader.prompt(second[:, :7])]
    for i in range(4):
        reader.check(reader.step(first[:, 5 + i : 6 + i], caches[0]), first[:, : 6 + i])
        reader.check(reader.step(second[:, 7 + i : 8 + i], caches[1]), second[:, : 8 + i])
    assert steps == 4 * [2, 3]


@pytest.mark.parametrize("name", ["Mamba", "Qwen3_5", "FalconH1", "Lfm2"])
def test_changes_of_a_cache_between_steps_are_noticed(name: str, steps: list[int]) -> None:
    reader, sequence = Reader(name), tokens(3, 12)
    cache = reader.prompt(sequence[:, :5])
    reader.step(sequence[:, 5:6], cache)
    rows = torch.tensor([2, 0, 2])
    cache.reorder_cache(rows)
    reader.check(reader.step(sequence[:, 6:7], cache), torch.cat([sequence[rows, :6], sequence[:, 6:7]], 1))

    other = copy.deepcopy(reader.prompt(sequence[:, :6]))
    reader.check(reader.step(sequence[:, 6:7], other), sequence[:, :7])
    kept = copy.deepcopy(other)
    reader.step(sequence[:, 8:9], other)
    reader.check(reader.step(sequence[:, 7:8], kept), sequence[:, :8])

    zeroed = kept.layers[0]
    zeroed.conv_states[0].zero_()
    states = copy.deepcopy(kept)
    with torch.no_grad():
        expected = restore(copy.deepcopy(reader.model))(sequence[:, 8:9], cache=states, use_cache=True).logits[:, -1]
    check(reader.step(sequence[:, 8:9], kept), expected)
    assert steps == 6 * [3]


def test_keys_that_are_removed_from_a_cache() -> None:
    """A crop of the attention layers alone, as of a model whose other layers have no memory."""
    plain, model, sequence = single("Lfm2"), accelerate(single("Lfm2"), decode=True), tokens(2, 12)
    with torch.no_grad():
        caches = [new_cache(model.config, 2, torch.float32) for _ in range(2)]
        for i in range(10):
            ours, theirs = (
                each(sequence[:, i : i + 1], cache=cache, use_cache=True).logits
                for each, cache in zip((model, plain), caches, strict=True)
            )
            check(ours, theirs)
            if i % 4 == 3:
                for cache in caches:
                    cache.layers[1].crop(-2)


# ---- Calls that the model itself computes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "decode"),
    [
        ("Mamba", torch.float32, True),
        ("Mamba", torch.bfloat16, "bf16"),
        ("FalconH1", torch.float32, "int8"),
        ("FalconH1", torch.bfloat16, True),
        ("RecurrentGemma", torch.float32, "int8"),
        ("RecurrentGemma", torch.bfloat16, "bf16"),
    ],
    ids=str,
)
def test_the_model_itself_reads_in_the_middle(name: str, dtype: Any, decode: Any, steps: list[int]) -> None:
    """Steps of the decoder and of the model in turns, with one cache."""
    plain = single(name).to(dtype)
    if decode == "int8":  # numbers that the format has
        plain.load_state_dict(numbers_of(accelerate(copy.deepcopy(plain), decode=decode)))
    model, whole = accelerate(copy.deepcopy(plain), decode=decode), double(name, plain)
    sequence, tolerance = tokens(2, 15), 1e-5 if dtype == torch.float32 else 0.05
    cache = new_cache(model.config, 2, dtype)
    with torch.no_grad():
        model(sequence[:, :6], cache=cache, use_cache=True)
    calls: list[Any] = [
        {},
        {"output_hidden_states": True},
        {},
        {"labels": sequence[:, :1]},
        {"gradient": True},
        {},
        {"training": True},
        {},
        {},
    ]
    for i, options in enumerate(calls):
        model.train(options.pop("training", False))
        with torch.set_grad_enabled(options.pop("gradient", False)):
            output = model(sequence[:, 6 + i : 7 + i], cache=cache, use_cache=True, **options)
        with torch.no_grad(), exact(whole):
            expected = whole(sequence[:, : 7 + i]).logits[:, -1]
        check(output.logits[:, -1], expected, tolerance)
        assert ("output_hidden_states" in options) == (output.get("hidden_states") is not None)
        assert ("labels" in options) == (output.get("loss") is not None)
    assert len(steps) == 5


@pytest.mark.parametrize("decode", [True, "int8"], ids=str)
def test_more_sequences_than_a_decoder_has(decode: Any, steps: list[int]) -> None:
    check_generated("FalconH1", accelerate(single("FalconH1"), decode=decode), tokens(9, 5))
    assert not steps


@pytest.mark.parametrize("option", ["output_hidden_states", "return_dict", "use_cache"])
def test_options_of_the_config(option: str, steps: list[int]) -> None:
    plain, model, sequence = single(), accelerate(single(), decode=True), tokens(2, 6)
    outputs = []
    for each in (plain, model):
        cache = new_cache(each.config, 2, torch.float32)
        with torch.no_grad():
            each(sequence[:, :5], cache=cache, use_cache=True)
            setattr(each.config, option, not getattr(each.config, option))
            outputs.append(each(sequence[:, 5:], cache=cache))
    theirs, ours = outputs
    assert type(ours) is type(theirs)
    assert option == "return_dict" or list(ours) == list(theirs)
    check(ours[0], theirs[0])
    assert not steps


def test_masks_and_positions_that_only_the_model_knows(steps: list[int]) -> None:
    reader, sequence = Reader("FalconH1"), tokens(2, 7)
    cache = reader.prompt(sequence[:, :5])
    mask = torch.ones(2, 6, dtype=torch.int64)
    mask[1, 3] = 0
    reader.step(sequence[:, 5:6], copy.deepcopy(cache), attention_mask=mask)
    assert not steps
    position = torch.tensor([[7], [6]])
    with torch.no_grad():
        plain = restore(copy.deepcopy(reader.model))
        expected = plain(sequence[:, 5:6], cache=copy.deepcopy(cache), position_ids=position).logits[:, -1]
    check(reader.step(sequence[:, 5:6], copy.deepcopy(cache), position_ids=position), expected)
    mask[1, 3] = 1
    mask[0, :2] = 0
    with torch.no_grad():
        expected = plain(sequence[:, 5:6], cache=copy.deepcopy(cache), attention_mask=mask).logits[:, -1]
    check(reader.step(sequence[:, 5:6], copy.deepcopy(cache), attention_mask=mask), expected)
    assert steps == [2, 2]
    with pytest.raises(ValueError, match=r"tokens must be .*37"):
        reader.step(torch.tensor([[3], [VOCABULARY]]), cache)


# ---- Models before and after ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_restore_returns_the_model_as_it_was(name: str, steps: list[int]) -> None:
    model, prompt = single(name), tokens(2, 7)
    kind, state = type(model), {key: x.clone() for key, x in model.state_dict().items()}
    before = generated(model, prompt)
    assert accelerate(model, decode="int8") is model and isinstance(model, kind) and type(model) is not kind
    assert type(model).__name__ == kind.__name__
    generated(model, prompt)
    assert restore(model) is model and type(model) is kind and "_fastiter_steps" not in vars(model)
    assert all(torch.equal(x, state[key]) for key, x in model.state_dict().items())
    steps.clear()
    after = generated(model, prompt)
    assert torch.equal(after.sequences, before.sequences) and torch.equal(logits_of(after), logits_of(before))
    assert not steps


def test_a_conversation_goes_on_after_restore() -> None:
    for dtype, rounding in ((torch.float32, 0), (torch.bfloat16, 0.02)):
        plain, sequence = single("FalconH1").to(dtype), tokens(2, 9)
        model = accelerate(copy.deepcopy(plain), decode=True)
        caches = [new_cache(plain.config, 2, dtype) for _ in range(2)]
        with torch.no_grad():
            for first, last in ((0, 6), (6, 7), (7, 8), (8, 9)):
                model = restore(model) if last == 9 else model
                theirs, ours = (
                    each(sequence[:, first:last], cache=cache).logits[:, -1]
                    for each, cache in zip((plain, model), caches, strict=True)
                )
                check(ours, theirs, rounding)


def test_accelerate_twice_has_the_weights_of_the_last_call(steps: list[int]) -> None:
    model, prompt = accelerate(single(), decode=True), tokens(2, 7)
    assert len(type(accelerate(model, decode="int8")).__mro__) == len(type(single()).__mro__) + 1
    check_generated("Mamba", model, prompt)
    accelerate(model)
    check_generated("Mamba", model, prompt)
    assert steps == 2 * (NEW - 1) * [2]
    decoder = Decoder(model, keep=True)
    check(decoder.prefill(prompt), single()(prompt).logits[:, -1])
    check_generated("Mamba", accelerate(model, decode=True), prompt)


def test_copies_are_accelerated_and_pickles_refused(steps: list[int]) -> None:
    model, prompt = accelerate(single("FalconH1"), decode="int8"), tokens(2, 7)
    generated(model, prompt)
    other = copy.deepcopy(model)
    steps.clear()
    assert torch.equal(logits_of(generated(other, prompt)), logits_of(generated(model, prompt)))
    assert steps == 2 * (NEW - 1) * [2]
    restore(other)
    assert "_fastiter_steps" in vars(model)
    with pytest.raises(
        TypeError, match=r"with decode= must be restored \(fastiter.torch.restore\) before it is pickled"
    ):
        pickle.dumps(model)
    restore(model)
    assert torch.equal(pickle.loads(pickle.dumps(model))(prompt).logits, model(prompt).logits)


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    decode = {"*mlp*": "mxfp4", "*": "int8"}
    model, report = accelerate(single("Qwen3_5"), decode=decode, verbose=True, return_report=True)
    line = "Qwen3_5ForCausalLM, steps with a cache by fastiter.torch.Decoder in int8, mxfp4, f32"
    assert report.accelerated[""] == line and line in capsys.readouterr().out
    check_generated("Qwen3_5", model, tokens(2, 7))
    _, report = restore(model, return_report=True)
    assert report.restored[""] == "Qwen3_5ForCausalLM"


@pytest.mark.parametrize(
    ("model", "decode", "error", "message"),
    [
        (lambda: single().train(), True, ValueError, r"accelerate: model must be in eval mode \(model.eval\(\)\)"),
        (lambda: torch.nn.LSTM(3, 4).eval(), True, TypeError, r"accelerate: decode needs a model of transformers >= "),
        (lambda: make("xLSTM").float(), True, TypeError, r"accelerate: decode needs a model .*xLSTM"),
        (single, "int3", ValueError, r"weights must be one of f32, .*, got 'int3'"),
        (single, 3, TypeError, r"weights must be a format of fastiter.quant or its name, got int"),
        (single, {"*nothing*": "int8"}, ValueError, r"weights\['\*nothing\*'\] must match a layer .*, got none"),
        (lambda: single().backbone, True, TypeError, r"model must be one of .*, got transformers.*MambaModel"),
    ],
)
def test_what_is_refused_leaves_the_model(model: Any, decode: Any, error: type[Exception], message: str) -> None:
    model = model()
    kinds = [type(each) for each in model.modules()]
    with pytest.raises(error, match=message):
        accelerate(model, decode=decode)
    assert [type(each) for each in model.modules()] == kinds and "_fastiter_steps" not in vars(model)
