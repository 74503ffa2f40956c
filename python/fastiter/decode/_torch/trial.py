"""A trial of a plan: a few steps of the model itself, on the same packed numbers.

Plans know classes by their names. A version of transformers in which a class of that name computes something else is
found here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..plan import Plan
from .cache import new_cache, position_ids
from .sequences import Sequences, sequences_of
from .weights import head_of

#: Tokens of a trial: the model reads the first one, as a prompt; the second reads its states, the third those of a step
_TOKENS = 3
#: How much a norm after a state that reads almost nothing amplifies the rounding of its inputs
_AMPLIFICATION = 100


def check_equations(model: Any, plan: Plan, dtype: torch.dtype, step: Callable[[Sequences, Tensor], Tensor]) -> None:
    """Raise if the steps of a plan are not those of its model.

    ``model`` reads the same packed weights, so that only the order of roundings differs. Scores of experts may be
    equal up to rounding, and the choice is then arbitrary: of two trials with other tokens, one has to agree.
    """
    limit, found = tolerance(plan, model.config), float("nan")
    for tokens in _draws(head_of(plan).rows):
        try:
            found = _difference(model, plan, dtype, step, tokens)
        except Exception as error:
            raise ValueError(
                f"Decoder: {type(model).__name__} of {_version()} must compute a step with a cache, got {error}"
            ) from error
        if found <= limit:
            return
    raise ValueError(
        f"Decoder: {type(model).__name__} of {_version()} must compute the steps of its plan, got logits that differ "
        f"by {found:.1e} of the largest, more than {limit:.1e}"
    )


def tolerance(plan: Plan, config: Any) -> float:
    """Return the difference of two orders of the same sums, relative to the largest logit.

    The sums of each layer have as many roundings to float32, in which transformers' classes compute some of them in
    float64, too, as the model is wide, and these add up like a random walk.
    """
    roundings = config.num_hidden_layers * head_of(plan).columns
    return _AMPLIFICATION * float(torch.finfo(torch.float32).eps) * float(roundings) ** 0.5


def _draws(vocabulary: int) -> Tensor:
    """Return the tokens of two trials, all different in vocabularies of more than six."""
    count = 2 * _TOKENS
    return (torch.arange(1, count + 1) * vocabulary // (count + 1)).view(2, _TOKENS)


@torch.no_grad()
def _difference(
    model: Any, plan: Plan, dtype: torch.dtype, step: Callable[[Sequences, Tensor], Tensor], tokens: Tensor
) -> float:
    """Return the largest difference of logits, relative to the largest logit; 0 if the model's are not finite."""
    cache, worst = new_cache(model.config, 1, dtype), 0.0

    def theirs(place: int) -> Tensor:
        where = position_ids(model, 1, place, place + 1)
        logits: Tensor = model(tokens[None, place : place + 1], cache=cache, use_cache=True, **where).logits[:, -1]
        return logits

    theirs(0)
    sequences = sequences_of(plan, cache, dtype, model)
    for place in range(1, _TOKENS):
        expected, found = theirs(place), step(sequences, tokens[place : place + 1])
        largest, apart = float(expected.abs().max()), float((found - expected).abs().max())
        if not math.isfinite(largest):
            return 0.0
        worst = max(worst, apart / (largest or 1.0)) if apart == apart else math.inf
    return worst


def _version() -> str:
    return f"transformers {getattr(sys.modules.get('transformers'), '__version__', '')}"
