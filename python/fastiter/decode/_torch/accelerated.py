"""Models whose steps with a cache are a decoder's: ``model.generate`` runs on it unchanged."""

from __future__ import annotations

import inspect
import weakref
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from ..._check import type_name
from .cache import bind, is_bound, length_of, states_of
from .decoder import MAX_ROWS, Decoder, check_decodable
from .sequences import SMALLEST_CAPACITY, Sequences
from .weights import Weights

_STEPS = "_fastiter_steps"
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


def steps_of(model: nn.Module, weights: Weights | bool) -> Steps:
    """Return the steps of a model by a decoder; ``weights`` is True for the model's own numbers."""
    check_decodable("accelerate", model)
    if "cache" not in inspect.signature(type(model).forward).parameters:
        raise TypeError(
            f"accelerate: decode needs a model of transformers >= 5.24 with a cache, got {type_name(model)}"
        )
    is_exact = weights is True
    return Steps(Decoder(model, weights=None if is_exact else weights, keep=True), is_exact)  # type: ignore[arg-type]


def attach(model: nn.Module, steps: Steps) -> None:
    """Let a model's steps with a cache be those of a decoder."""
    detach(model)
    plain = type(model)
    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "forward": _forward_of(plain)}
    model.__class__ = type(plain.__name__, (plain,), names)
    vars(model)[_STEPS] = steps


def detach(model: nn.Module) -> bool:
    """Undo :func:`attach`; return whether there was anything to undo."""
    if _STEPS not in vars(model):
        return False
    del vars(model)[_STEPS]
    model.__class__ = type(model).__mro__[1]
    return True


def _forward_of(plain: type[nn.Module]) -> Any:
    original: Any = plain.forward
    names = tuple(inspect.signature(original).parameters)[1:]

    @wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps: Steps | None = vars(self).get(_STEPS)
        if steps is None or self.training or torch.is_grad_enabled():
            return original(self, *args, **kwargs)
        return steps.call(self, original, {**dict(zip(names, args, strict=False)), **kwargs})

    return forward


class Steps:
    """The decoder of a model, and the cache whose states it has.

    ``exact`` is whether its weights are the model's own numbers, so that the model itself reads prompts.
    """

    def __init__(self, decoder: Decoder, exact: bool) -> None:
        self.decoder, self.exact = decoder, exact
        self._sequences: Sequences | None = None
        self._cache: Any = None
        self._output: tuple[Any, str] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Steps:
        return Steps(self.decoder, self.exact)

    def __reduce__(self) -> Any:
        raise TypeError("a model with decode= must be restored (fastiter.torch.restore) before it is pickled")

    def call(self, model: Any, original: Any, given: dict[str, Any]) -> Any:
        """Return the output of a call of the model."""
        cache = given.get("cache")
        reader = model if self.exact else self.decoder._model
        if self._output is not None and cache is not None and self._is_step(cache, given):
            logits = self._step(cache, given, reader)
            if logits is not None:
                kind, name = self._output
                return kind(logits=logits[:, None], **{name: cache})
        if cache is not None:
            self._give_back(cache, reader)
        output = original(model, **given) if self.exact else reader(**given)
        if self._output is None and hasattr(output, "keys"):
            fields = [name for name in output if hasattr(output[name], "layers")]
            self._output = (type(output), fields[0]) if fields else None
        return output

    def _is_step(self, cache: Any, given: dict[str, Any]) -> bool:
        tokens = given.get("input_ids")
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or tokens.shape[1] != 1 or len(tokens) > MAX_ROWS:
            return False
        if any(value is not None and value is not False for name, value in given.items() if name not in _KNOWN):
            return False
        if given.get("use_cache") is False or given.get("return_dict") is False:
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
        padded = _firsts_of(given.get("attention_mask"), sequences)
        if padded is None:
            return None
        sequences.firsts = padded if padded.any() else None
        positions = _positions_of(given.get("position_ids"), len(tokens))
        logits = decoder._step(sequences, tokens[:, 0], positions)
        bind(plan, sequences.states, cache, sequences.length, model=reader)
        return logits

    def _sequences_of(self, cache: Any, rows: int, reader: Any) -> Sequences | None:
        """Return the states in a cache: the present ones if they are still its tensors, else copies."""
        plan, length = self.decoder.plan, length_of(self.decoder.plan, cache)
        held = self._sequences
        if held is not None and self._cache is not None and self._cache() is cache and held.rows == rows:
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
        """Before the model itself reads a cache: its tensors get the model's dtype again."""
        if self._cache is None or self._cache() is not cache:
            return
        held, self._sequences, self._cache = self._sequences, None, None
        if held is not None and reader.dtype != held.dtype:
            states = {name: x.to(reader.dtype) for name, x in held.states.items()}
            bind(self.decoder.plan, states, cache, held.length, model=reader)


def layer_has_started(layer: Any, state: Any) -> bool:
    """Return whether a layer of a cache has the state."""
    if state.attribute is not None:
        return True
    if state.kind in ("keys", "values"):
        return bool(layer.is_initialized)
    return bool(getattr(layer, f"is_{state.kind}_states_initialized")[state.index])


def _firsts_of(mask: Tensor | None, sequences: Sequences) -> Any:
    """Return the number of padding tokens at the left of each row, None for padding elsewhere."""
    if mask is None:
        return torch.zeros(sequences.rows, dtype=torch.int64).numpy()
    if mask.dim() != 2 or len(mask) != sequences.rows:
        return None
    seen = mask != 0
    firsts = mask.shape[1] - seen.sum(1)
    is_left = bool((seen.long().diff(dim=1) >= 0).all()) and bool(seen[:, -1].all())
    return firsts.numpy() if is_left else None


def _positions_of(position_ids: Tensor | None, rows: int) -> Any:
    """Return the positions (B,) that a call gives, None if it gives none."""
    if position_ids is None:
        return None
    last = position_ids.reshape(-1, *position_ids.shape[-2:])[0, :, -1]
    return last.expand(rows).contiguous().numpy()
