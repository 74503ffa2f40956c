"""FlashRNN's backends that run on a CPU."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from bench.harness.contest import BOTH, Absent, Entrant, Work, run, with_gradients
from bench.harness.peers import absent, load
from bench.rnn.flashrnn_cases import Case, gradients_alone

BACKENDS = ("vanilla", "vanilla_fwbw")
MANUAL = ("lstm", "slstm")  # the functions for which vanilla_fwbw has a backward pass


def peer_name(backend: str) -> str:
    return f"flashrnn {backend}"


class OnDemand:
    """The gradients of one forward pass, which runs when they are first requested."""

    def __init__(self, function: Any, work: Work) -> None:
        self.function, self.work, self.call = function, work, None

    def __call__(self) -> object:
        values = list(self.work.inputs.values())
        self.call = self.call or gradients_alone(self.function(*values), values, self.work.cotangent)
        return self.call()


def entrant(flashrnn: ModuleType, case: Case, work: Work, backend: str, backward_alone: bool) -> Entrant:
    values = list(work.inputs.values())

    def h(*tensors: Tensor) -> Tensor:
        states, _ = flashrnn.flashrnn(*tensors, function=case.function, backend=backend, dtype="float32")
        return states[0]

    call = OnDemand(h, work) if backward_alone else run(lambda: h(*values), values, work.cotangent, BOTH)
    return Entrant(peer_name(backend), call, lambda: with_gradients(h(*values), work.inputs, work.cotangent))


def entrants(case: Case, work: Work, backward_alone: bool = False) -> list[Entrant | Absent]:
    flashrnn = load("flashrnn")
    if flashrnn is None:
        return [absent(peer_name(backend), "flashrnn") for backend in BACKENDS]
    runs = [backend for backend in BACKENDS if backend == "vanilla" or case.function in MANUAL]
    return [entrant(flashrnn, case, work, backend, backward_alone) for backend in runs]
