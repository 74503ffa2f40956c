"""Generation of tokens by a decoder: the choice of each token in the compiled loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..._check import count, type_name

if TYPE_CHECKING:
    from .decoder import Decoder
    from .sequences import Sequences


class Options(NamedTuple):
    """The options of :meth:`Decoder.generate`, None where they are not given."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    rng: int | torch.Generator | None = None
    stop: int | Sequence[int] | None = None
    on_token: Callable[[Tensor], Any] | None = None

    @property
    def is_random(self) -> bool:
        """Whether tokens are drawn."""
        return any(x is not None for x in (self.temperature, self.top_k, self.top_p, self.min_p, self.rng))


class _Call(NamedTuple):
    """The things that all steps of a generation have in common."""

    sampling: dict[str, Any]
    stops: npt.NDArray[np.int64]
    pad: int


def generate(decoder: Decoder, tokens: Tensor, max_new_tokens: int, options: Options) -> Tensor:
    """Read tokens (B, T), and return them with the tokens that follow."""
    new = count("generate", "max_new_tokens", max_new_tokens, 1)
    call = _call_of(decoder.config, options)
    sequences = decoder._started("generate", tokens)
    uniform = _uniform(sequences.rows, new, options)
    if tokens.shape[1] > 1:
        decoder.prefill(tokens[:, :-1])
    sequences.reserve(new)
    seen = tokens[:, :-1] if options.repetition_penalty is not None else tokens[:, :0]
    if options.on_token is None:
        return torch.cat([tokens, _run(decoder, sequences, call, tokens[:, -1], seen, uniform, new)], 1)
    result = [tokens]
    for i in range(new):
        drawn = None if uniform is None else uniform[:, i : i + 1]
        following = _run(decoder, sequences, call, result[-1][:, -1], seen, drawn, 1)
        following = _padded(following, result[1:], call)
        result.append(following)
        seen = torch.cat([seen, result[-2][:, -1:]], 1) if options.repetition_penalty is not None else seen
        if options.on_token(following[:, 0]) is True or _have_ended(result[1:], call):
            break
    return torch.cat(result, 1)


def _run(
    decoder: Decoder,
    sequences: Sequences,
    call: _Call,
    first: Tensor,
    seen: Tensor,
    uniform: npt.NDArray[np.float64] | None,
    steps: int,
) -> Tensor:
    """Return the next tokens (B, n) in one compiled call."""
    out, done = decoder._program.generate(
        first.contiguous().numpy(),
        sequences.positions(),
        sequences.addresses,
        steps,
        length=sequences.length,
        capacity=sequences.capacity,
        firsts=sequences.firsts,
        uniform=None if uniform is None else np.ascontiguousarray(uniform),
        stops=call.stops,
        pad=call.pad,
        seen=seen.contiguous().numpy(),
        **call.sampling,
    )
    sequences.length += done
    return torch.from_numpy(out[:, :done])


def _padded(tokens: Tensor, before: list[Tensor], call: _Call) -> Tensor:
    """Return a step's tokens with the padding of the sequences that ended in an earlier step."""
    if not before or not call.stops.size:
        return tokens
    stops = torch.from_numpy(call.stops)
    ended = torch.isin(torch.cat(before, 1), stops).any(1, keepdim=True)
    return torch.where(ended, call.pad, tokens)


def _have_ended(new: list[Tensor], call: _Call) -> bool:
    return bool(torch.isin(torch.cat(new, 1), torch.from_numpy(call.stops)).any(1).all())


def _call_of(config: Any, options: Options) -> _Call:
    sampling: dict[str, Any] = {}
    limits = {"temperature": (0, None), "top_p": (0, 1), "min_p": (-1, 1), "repetition_penalty": (0, None)}
    for name, (above, most) in limits.items():
        value = getattr(options, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"generate: {name} must be a number, got {type_name(value)}")
        if not value > above or (most is not None and value > most) or (name == "min_p" and value < 0):
            expected = "in [0, 1]" if name == "min_p" else "positive" if most is None else "in (0, 1]"
            raise ValueError(f"generate: {name} must be {expected}, got {value}")
        sampling[name] = float(value)
    if options.top_k is not None:
        sampling["top_k"] = count("generate", "top_k", options.top_k, 1)
    stops = _stops(config, options.stop)
    pad = getattr(config, "pad_token_id", None)
    pad = pad if isinstance(pad, int) and pad >= 0 else int(stops[0]) if stops.size else 0
    return _Call(sampling, stops, pad)


def _stops(config: Any, stop: object) -> npt.NDArray[np.int64]:
    stop = getattr(config, "eos_token_id", None) if stop is None else stop
    tokens = [] if stop is None else [stop] if isinstance(stop, int) else stop
    if not isinstance(tokens, Sequence) or not all(isinstance(x, int) and not isinstance(x, bool) for x in tokens):
        raise TypeError(f"generate: stop must be a token or a sequence of tokens, got {stop!r}")
    return np.array(tokens, np.int64)


def _uniform(rows: int, steps: int, options: Options) -> npt.NDArray[np.float64] | None:
    """Return a number in [0, 1) for each token, None if the most probable ones are chosen."""
    if not options.is_random:
        return None
    rng = options.rng
    if isinstance(rng, int) and not isinstance(rng, bool):
        rng = torch.Generator().manual_seed(rng)
    if rng is not None and not isinstance(rng, torch.Generator):
        raise TypeError(f"generate: rng must be an int or a torch.Generator, got {type_name(rng)}")
    result: npt.NDArray[np.float64] = torch.rand(steps, rows, generator=rng, dtype=torch.float64).T.contiguous().numpy()
    return result
