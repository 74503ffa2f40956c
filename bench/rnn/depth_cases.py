"""The cases for recurrent networks in depth: packed batches, bfloat16, and checkpoints of the backward pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastiter.torch.nn
from bench.harness import gate
from bench.harness.contest import BOTH, Call, run, with_gradients
from bench.rnn.cases import CELLS, Case, Layer, Recurrence

PEERS = ("lstm", "gru")  # the cells of torch.nn besides Elman's
EVERY = 32  # steps between two checkpoints


def _layers(case: Case, dtype: torch.dtype = torch.float32) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our layer and torch's, with the same weights."""
    name = str(CELLS[case.cell].layer)
    theirs = getattr(torch.nn, name)(case.H, case.H, dtype=dtype)
    ours = getattr(fastiter.torch.nn, name)(case.H, case.H, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


# ---- Packed batches -------------------------------------------------------------------------------------------------


class PackedLayer(Layer):
    """A layer on the valid steps of a ragged batch."""

    def __init__(self, layer: torch.nn.Module, packed: PackedSequence, cotangent: Tensor) -> None:
        super().__init__(layer, packed.data, cotangent)
        self.packed = packed._replace(data=self.x)

    def __call__(self) -> Tensor:
        h: Tensor = self.layer(self.packed)[0].data
        return h

    def results(self) -> dict[str, Tensor]:
        return with_gradients(self(), {"x": self.x, **dict(self.layer.named_parameters())}, self.cotangent)


@dataclass
class Ragged:
    """The same layers on lengths T / 4 to T, and ours on rows that are all T long."""

    case: Case
    valid: int
    ours: PackedLayer
    peer: PackedLayer
    padded: Layer

    def check(self) -> float:
        return gate.check(f"{self.case}, packed", self.ours.results(), self.peer.results(), self.case.T)


def ragged(case: Case) -> Ragged:
    lengths = torch.linspace(case.T / 4, case.T, case.B).long()[torch.randperm(case.B)]
    x = torch.randn(case.T, case.B, case.H)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    cotangent = torch.randn_like(packed.data)
    ours, theirs = _layers(case)
    padded = Layer(ours, x, torch.randn_like(x))
    return Ragged(case, len(packed.data), *(PackedLayer(layer, packed, cotangent) for layer in (ours, theirs)), padded)


# ---- bfloat16 -------------------------------------------------------------------------------------------------------


@dataclass
class Halves:
    """Layers in bfloat16, ours and torch's, and ours in float32 with the same numbers."""

    case: Case
    ours: Layer
    peer: Layer
    single: Layer

    def check(self) -> float:
        """Raise if ours deviates from float32 more than torch's does, by more than a rounding of the largest value."""
        exact, ours, theirs = (layer.results() for layer in (self.single, self.ours, self.peer))
        limit = {name: gate.difference(theirs[name].float(), exact[name]) for name in exact}
        errors = {name: gate.difference(ours[name].float(), exact[name]) for name in exact}
        for name, bound in limit.items():
            if not errors[name] <= bound + torch.finfo(torch.bfloat16).eps:
                raise gate.GateError(
                    f"{self.case} in bfloat16: {name} is {errors[name]:.1e} from float32, torch's {bound:.1e}"
                )
        return max(errors.values())


def halves(case: Case) -> Halves:
    ours, theirs = _layers(case, torch.bfloat16)
    single, _ = _layers(case)
    single.load_state_dict(theirs.state_dict())
    x, cotangent = (torch.randn(case.T, case.B, case.H).bfloat16() for _ in range(2))
    return Halves(
        case, Layer(ours, x, cotangent), Layer(theirs, x, cotangent), Layer(single, x.float(), cotangent.float())
    )


# ---- Checkpoints ----------------------------------------------------------------------------------------------------


@dataclass
class Checkpoints:
    """The recurrence with its gates stored, and with only the states of every 32nd step stored."""

    case: Case
    stored: Recurrence

    def again(self) -> Tensor:
        return self.stored.function(*self.stored.inputs, checkpoint=EVERY)[0]

    def calls(self) -> dict[str, Call]:
        by_chunks = run(self.again, self.stored.inputs, self.stored.cotangent, BOTH)
        return {"stored": self.stored.timed(BOTH), "checkpoint": by_chunks}

    def check(self) -> None:
        """Raise unless all bits are equal."""
        inputs = dict(zip(("wx", "r", "b"), self.stored.inputs, strict=True))
        again = with_gradients(self.again(), inputs, self.stored.cotangent)
        for name, value in self.stored.results().items():
            if not torch.equal(again[name], value):
                raise gate.GateError(f"{self.case}, checkpoint: {name} is not the same")

    def bytes_saved(self) -> dict[str, int]:
        """Bytes that the graph retains besides its inputs and h, for both."""
        return {"stored": self._bytes_saved(self.stored), "checkpoint": self._bytes_saved(self.again)}

    def _bytes_saved(self, forward: Call) -> int:
        saved: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            saved[x.data_ptr()] = x.nbytes
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            h = forward()
        assert isinstance(h, Tensor)
        known = {x.data_ptr() for x in (*self.stored.inputs, h)}
        return sum(size for address, size in saved.items() if address not in known) - h.nbytes
