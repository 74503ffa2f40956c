"""Models whose steps with a cache are a decoder's: ``model.generate`` runs on it unchanged."""

from __future__ import annotations

import inspect
import weakref
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._check import type_name
from .cache import bind, cast, is_bound, length_of, move_attributes, new_cache, states_of
from .decoder import MAX_ROWS, Decoder, check_decodable
from .marks import Marks, are_current, copied_marks, marks_of
from .sequences import SMALLEST_CAPACITY, Sequences
from .skeleton import STEPS, without_steps
from .weights import Weights

#: Layers of caches whose tensors may be views of a decoder's memory
_LAYERS = (
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "DummyLayer",
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
)
#: Arguments of a model's call that a step uses or that have no effect on it; others must be None or False
_KNOWN = ("input_ids", "attention_mask", "position_ids", "cache", "use_cache", "logits_to_keep", "return_dict")
#: Options that a model's config has too, and the values with which a call can be a step
_SETTINGS = {"use_cache": True, "return_dict": True, "output_hidden_states": False, "output_attentions": False}


def steps_of(model: nn.Module, weights: Weights | bool) -> Steps:
    """Return the steps of a model by a decoder; ``weights`` is True for the model's own numbers."""
    check_decodable("accelerate", model)
    if "cache" not in inspect.signature(type(model).forward).parameters:
        raise TypeError(
            f"accelerate: decode needs a model of transformers >= 5.24 with a cache, got {type_name(model)}"
        )
    marks = marks_of(model)
    decoder = _decoder_of(model, weights)
    if not hasattr(new_cache(decoder.config, 1, decoder._dtype), "layers"):
        raise TypeError(
            f"accelerate: decode needs a model with a cache of layers, got {type_name(model)}; use Decoder for it"
        )
    return Steps(decoder, weights, marks)


def _decoder_of(model: nn.Module, weights: Weights | bool, trial: bool = True) -> Decoder:
    return Decoder(model, weights=None if isinstance(weights, bool) else weights, keep=True, trial=trial)


def attach(model: nn.Module, steps: Steps) -> None:
    """Let a model's steps with a cache be those of a decoder."""
    detach(model)
    model.__class__ = _class_with_steps(type(model))
    vars(model)[STEPS] = steps


def detach(model: nn.Module) -> bool:
    """Undo :func:`attach`; return whether there was anything to undo."""
    steps = without_steps(model)
    if steps is not None:
        steps.leave(model)
    return steps is not None


def _class_with_steps(plain: type[nn.Module]) -> type[nn.Module]:
    def reduce(self: Any, protocol: Any) -> Any:
        return _new, (plain,), *plain.__reduce_ex__(self, protocol)[2:]  # copies; pickles are refused by Steps

    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__}
    return type(plain.__name__, (plain,), {**names, "forward": _forward_of(plain), "__reduce_ex__": reduce})


def _new(plain: type[nn.Module]) -> nn.Module:
    kind = _class_with_steps(plain)
    return kind.__new__(kind)


def _forward_of(plain: type[nn.Module]) -> Any:
    original: Any = plain.forward
    names = tuple(inspect.signature(original).parameters)[1:]

    @wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps: Steps | None = vars(self).get(STEPS)
        if steps is None:
            return original(self, *args, **kwargs)
        return steps.call(self, original, {**dict(zip(names, args, strict=False)), **kwargs})

    return forward


class Steps:
    """The decoder of a model, and the cache whose states it has.

    ``exact`` is whether its weights are the model's own numbers, so that the model itself reads prompts. The weights
    are packed again if a sequence begins and the model's tensors no longer have the marks that they had then.
    """

    def __init__(self, decoder: Decoder, weights: Weights | bool, marks: Marks) -> None:
        self.decoder, self.exact = decoder, weights is True
        self._weights, self._marks = weights, marks
        self._sequences: Sequences | None = None
        self._cache: Any = None
        self._output: tuple[Any, str | None] | None = None
        self._is_in_copy = False  # whether the states that modules have are those of the decoder's copy of the model

    def __deepcopy__(self, memo: dict[int, Any]) -> Steps:
        return Steps(self.decoder, self._weights, copied_marks(self._marks, memo))

    def __reduce__(self) -> Any:
        raise TypeError("a model with decode= must be restored (fastiter.torch.restore) before it is pickled")

    def call(self, model: Any, original: Any, given: dict[str, Any]) -> Any:
        """Return the output of a call of the model."""
        cache = given.get("cache")
        is_own = model.training or torch.is_grad_enabled()
        if not is_own and not self._holds(cache):
            self._follow(model)
        reader = model if self.exact or is_own else self.decoder._model
        self._move_to(reader, model)
        if self._output is not None and not is_own and self._is_step(model.config, cache, given):
            logits = self._step(cache, given, reader)
            if logits is not None:
                kind, name = self._output
                return kind(logits=logits[:, None], **({} if name is None else {name: cache}))
        self._give_back(cache, reader)
        output = original(model, **given) if reader is model else reader(**given)
        if self._output is None and hasattr(output, "keys") and not model.training:
            self._output = _output_of(output, cache is not None and _setting(model.config, given, "use_cache"))
        return output

    def leave(self, model: Any) -> None:
        """Let the model go on without a decoder."""
        self._move_to(model, model)
        self._give_back(None if self._cache is None else self._cache(), model)

    def _holds(self, cache: Any) -> bool:
        held = None if self._cache is None else self._cache()
        return held is not None and held is cache

    def _follow(self, model: Any) -> None:
        """Pack the weights again if they have changed."""
        if are_current(self._marks, model):
            return
        self._move_to(model, model)
        marks = marks_of(model)
        self.decoder = _decoder_of(model, self._weights, trial=False)  # other numbers, the same equations
        self._marks, self._sequences, self._cache = marks, None, None

    def _is_step(self, config: Any, cache: Any, given: dict[str, Any]) -> bool:
        tokens = given.get("input_ids")
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.shape[1] != 1:
            return False
        if not 1 <= len(tokens) <= MAX_ROWS or isinstance(given.get("logits_to_keep"), Tensor):
            return False
        others = (value for name, value in given.items() if name not in _KNOWN)
        if any(value is not None and value is not False for value in others):
            return False
        if any(_setting(config, given, name) is not value for name, value in _SETTINGS.items()):
            return False
        layers = getattr(cache, "layers", ())
        return bool(layers) and all(
            type(layer).__name__ in _LAYERS and not getattr(layer, "record_past", False) for layer in layers
        )

    def _step(self, cache: Any, given: dict[str, Any], reader: Any) -> Tensor | None:
        """Return the logits (B, vocabulary) of a step, None if the model has to do it."""
        tokens = given["input_ids"]
        plan, decoder = self.decoder.plan, self.decoder
        sequences = self._sequences_of(cache, len(tokens), reader)
        if sequences is None:
            return None
        padding = _firsts_of(given.get("attention_mask"), sequences)
        positions = _positions_of(given.get("position_ids"), sequences)
        if padding is None or positions is None:
            return None
        sequences.firsts = padding if padding.any() else None
        logits = decoder._step(sequences, tokens[:, 0], positions)
        bind(plan, sequences.states, cache, sequences.length, model=reader)
        return logits

    def _sequences_of(self, cache: Any, rows: int, reader: Any) -> Sequences | None:
        """Return the states in a cache: the present ones if they are still its tensors, else copies."""
        plan, length = self.decoder.plan, length_of(self.decoder.plan, cache)
        held = self._sequences
        if held is not None and self._holds(cache) and held.rows == rows:
            is_current = held.length == length or not held.grows
            if is_current and is_bound(plan, held.states, cache, length, model=reader):
                return held
        if not all(layer_has_started(cache.layers[state.layer], state) for state in plan.states):
            return None
        sequences = Sequences(plan, rows, self.decoder._dtype)
        try:
            room = length + SMALLEST_CAPACITY
            states = states_of(plan, cache, rows, self.decoder._dtype, capacity=room, model=reader)
        except ValueError:  # a batch that does not fit the cache: the model says why
            return None
        sequences.use(states, length)
        self._sequences, self._cache = sequences, weakref.ref(cache)
        return sequences

    def _give_back(self, cache: Any, reader: Any) -> None:
        """Before a model itself reads a cache: its memory is no longer the decoder's, and has the model's dtypes."""
        if self._holds(cache):
            self._sequences = self._cache = None
        if getattr(cache, "layers", None):
            cast(self.decoder.plan, cache, reader.dtype, model=reader)

    def _move_to(self, reader: Any, model: Any) -> None:
        """Move the states that are in modules to those of what reads next: the model, or the decoder's copy."""
        if self._is_in_copy != (reader is not model):
            move_attributes(self.decoder.plan, self.decoder._model if reader is model else model, reader)
            self._is_in_copy = reader is not model


def _output_of(output: Any, has_cache: bool) -> tuple[Any, str | None] | None:
    """Return the class of a model's outputs, and the name that the cache has there, None if they do not have it."""
    names = [name for name in output if hasattr(output[name], "layers")]
    return (type(output), names[0] if names else None) if names or has_cache else None


def _setting(config: Any, given: dict[str, Any], name: str) -> bool:
    """Return an option of a call, by default the config's."""
    value = given.get(name)
    return bool(getattr(config, name, False) if value is None else value)


def layer_has_started(layer: Any, state: Any) -> bool:
    """Return whether a layer of a cache has the state."""
    if state.attribute is not None:
        return True
    if state.grows:
        return bool(layer.is_initialized)
    has_started = getattr(layer, f"is_{state.kind}_states_initialized")[state.index]
    return bool(has_started and (state.kind != "conv" or layer.has_previous_state[state.index]))


def _firsts_of(mask: Any, sequences: Sequences) -> Any:
    """Return the number of padding tokens at the left of each row, None for masks that say something else."""
    if mask is None or not sequences.grows:
        return np.zeros(sequences.rows, np.int64)
    if not isinstance(mask, Tensor) or mask.shape != (sequences.rows, sequences.length + 1):
        return None
    seen = mask != 0
    is_left = bool((seen.long().diff(dim=1) >= 0).all()) and bool(seen[:, -1].all())
    return (mask.shape[1] - seen.sum(1)).numpy() if is_left else None


def _positions_of(position_ids: Any, sequences: Sequences) -> Any:
    """Return the position of the token of each row, None if a token has several."""
    if position_ids is None:  # padding does not shift the positions that models have by default
        return np.full(sequences.rows, sequences.length, np.int64)
    planes = position_ids.reshape(-1, *position_ids.shape[-2:])[..., -1]
    if not bool((planes == planes[0]).all()):
        return None
    return planes[0].expand(sequences.rows).contiguous().numpy()
