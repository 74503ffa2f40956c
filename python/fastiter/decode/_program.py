"""Programs: plans with packed weights, in a form that the compiled interpreter runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import _core
from .._check import check_array, count, float_dtype, type_name
from . import plan as p

Array = npt.NDArray[Any]

MAX_ROWS = 8
#: In the order of Activation, Routing and Kind in csrc/decode/cpu/operations.hpp
ACTIVATIONS = (
    *(None, "silu", "sigmoid", "gelu", "gelu_tanh", "relu", "relu2", "softplus", "tanh", "exp"),
    *("softcap", "clip"),
)
METHODS = ("softmax", "topk_softmax", "sigmoid")
KINDS = (
    *(p.Embed, p.Linear, p.Norm, p.Conv, p.Gate, p.Activate, p.Decay, p.Add, p.Selective, p.SSD, p.Delta),
    *(p.Rope, p.Attention, p.Route, p.Experts, p.Lru, p.MLstm),
)


class Fields(NamedTuple):
    """The fields of an operation, sorted by type; csrc/decode/operations.cpp reads them in this order."""

    slots: tuple[p.Slot | None, ...]
    integers: tuple[int, ...] = ()
    reals: tuple[float, ...] = ()
    vectors: tuple[p.Vector | None, ...] = ()
    matrices: tuple[p.Matrix, ...] = ()
    states: tuple[p.State, ...] = ()


def _activation(name: str | None) -> int:
    if name not in ACTIVATIONS:
        raise ValueError(f"Program: activation must be one of {', '.join(map(repr, ACTIVATIONS[1:]))}, got {name!r}")
    return ACTIVATIONS.index(name)


def _norm(o: p.Norm) -> Fields:
    integers = (o.size, o.kind == "layer", o.gate_first, _activation(o.gate_activation))
    return Fields((o.x, o.out, o.gate), integers, (o.eps,), (o.weight, o.bias))


def _gate(o: p.Gate) -> Fields:
    is_slot = isinstance(o.b, p.Slot)
    b, vector = (o.b, None) if is_slot else (None, o.b)
    return Fields((o.a, b, o.out), (_activation(o.activation),), (), (vector,))  # type: ignore[arg-type]


def _ssd(o: p.SSD) -> Fields:
    sizes = (o.heads, o.width, o.groups, o.states)
    return Fields((o.x, o.dt, o.B, o.C, o.out), sizes, o.limits, (o.A, o.skip, o.bias), (), (o.state,))


def _delta(o: p.Delta) -> Fields:
    sizes = (o.key_heads, o.value_heads, o.key_width, o.value_width, o.eps is not None, o.per_key)
    reals = (o.scale, 0.0 if o.eps is None else o.eps)
    return Fields((o.q, o.k, o.v, o.decay, o.beta, o.out), sizes, reals, (), (), (o.state,))


def _attention(o: p.Attention) -> Fields:
    sizes = (o.heads, o.key_heads, o.key_width, o.value_width, o.window or 0, o.latent)
    return Fields((o.q, o.k, o.v, o.out), sizes, (o.scale, o.cap or 0.0), (o.sinks,), (), (o.keys, o.values))


def _route(o: p.Route) -> Fields:
    if o.method not in METHODS:
        raise ValueError(f"Program: method must be one of {', '.join(map(repr, METHODS))}, got {o.method!r}")
    integers = (o.top_k, METHODS.index(o.method), o.normalize, o.groups, o.top_groups)
    return Fields((o.logits, o.out), integers, (o.eps, o.scale), (o.bias,))


def _experts(o: p.Experts) -> Fields:
    integers = (_activation(o.activation), o.add, o.gate is not None)
    return Fields((o.x, o.routes, o.out), integers, (), (), (*(o.gate or ()), *o.up, *o.down))


def _mlstm(o: p.MLstm) -> Fields:
    sizes, states = (o.heads, o.key_width, o.value_width), (o.memory, o.normalizer, o.maximum)
    return Fields((o.q, o.k, o.v, o.i, o.f, o.out), sizes, (o.scale, o.eps), (), (), states)


#: The fields of each kind of operation, in the order of KINDS
FIELDS: tuple[Callable[[Any], Fields], ...] = (
    lambda o: Fields((o.out,), (), (o.scale,), (), (o.table,)),
    lambda o: Fields((o.x, o.out), (_activation(o.activation), o.add), (o.scale,), (o.bias,), (o.matrix,)),
    _norm,
    lambda o: Fields((o.x, o.out), (len(o.weight), _activation(o.activation)), (), (o.weight, o.bias), (), (o.state,)),
    _gate,
    lambda o: Fields((o.x, o.out), (_activation(o.activation),), (1.0 if o.cap is None else o.cap,)),
    lambda o: Fields((o.x, o.out), (), (), (o.rate, o.bias)),
    lambda o: Fields((o.a, o.b, o.out), (), (o.scale_a, o.scale_b)),
    lambda o: Fields((o.u, o.dt, o.B, o.C, o.out), (), (), (o.A, o.skip, o.bias), (), (o.state,)),
    _ssd,
    _delta,
    lambda o: Fields((o.x, o.out), (o.heads, o.width, o.rotary, o.interleaved), (o.scaling,), (o.frequencies,)),
    _attention,
    _route,
    _experts,
    lambda o: Fields((o.x, o.input_gate, o.recurrent_gate, o.out), (), (), (o.rate,), (), (o.state,)),
    _mlstm,
)


def _index(what: str, name: str, places: Mapping[str, int]) -> int:
    if name not in places:
        raise ValueError(f"Program: {what} must be one of the plan's, got {name!r}")
    return places[name]


class Program:
    """A plan with packed weights; its steps are one compiled call each.

    Parameters
    ----------
    plan
        Operations, buffers and states.
    matrices
        The packed weights, by the plan's matrices. The program keeps them.
    dtype
        "float32" or "float64": of activations, vectors and states.
    rows
        The largest number of sequences, at most 8.
    threads
        Threads of a step; 0 for the usual number, or fewer where a thread would have too little work.

    Notes
    -----
    A program keeps no state between steps: the caller passes addresses of arrays (rows, ...), contiguous and of
    ``dtype``, in the order of ``plan.states``. Keys and values have shape (rows, heads, capacity, width).
    """

    def __init__(
        self,
        plan: p.Plan,
        matrices: Mapping[p.Matrix, _core.decode.PackedMatrix],
        dtype: str,
        rows: int = 8,
        threads: int = 0,
    ) -> None:
        self.plan = plan
        self.dtype = float_dtype("Program", dtype)
        self._buffers = {name: i for i, name in enumerate(plan.buffers)}
        self._states = {state.name: i for i, state in enumerate(plan.states)}
        self._matrices = matrices
        states = [(state.name, state.grows, list(state.shape)) for state in plan.states]
        steps = [self._described(step) for step in plan.steps]
        bits = 8 * self.dtype.itemsize
        self._program = _core.decode.Program(bits, rows, list(plan.buffers.items()), states, steps)
        self._program.set_threads(threads)

    def _described(self, step: p.Operation) -> tuple[Any, ...]:
        kind = KINDS.index(type(step))
        fields = FIELDS[kind](step)
        slots = [
            None if slot is None else (_index("the buffer", slot.name, self._buffers), slot.start, slot.size)
            for slot in fields.slots
        ]
        integers = [int(x) for x in fields.integers]
        vectors = [None if x is None else np.ascontiguousarray(x, np.float64) for x in fields.vectors]
        matrices = []
        for matrix in fields.matrices:
            if matrix not in self._matrices:
                raise ValueError(f"Program: matrices must have all matrices of the plan, got none for {matrix}")
            matrices.append(self._matrices[matrix])
        states = [_index("the state", state.name, self._states) for state in fields.states]
        return kind, slots, integers, list(map(float, fields.reals)), vectors, matrices, states

    @property
    def vocabulary(self) -> int:
        """The number of logits per row."""
        return self._program.vocabulary

    @property
    def waits(self) -> list[int]:
        """The indices of the operations before which the threads wait for each other."""
        return self._program.waits

    @property
    def nbytes(self) -> int:
        """Bytes of packed weights."""
        return self._program.nbytes

    def step(
        self,
        tokens: Array,
        positions: Array,
        states: Array,
        *,
        length: int = 0,
        capacity: int = 0,
        firsts: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Return the logits (rows, vocabulary) after one more token per row, and advance the states.

        Parameters
        ----------
        tokens, positions
            int64 (rows,): the tokens, and the positions of rotary embeddings.
        states
            int64 (states,): the address of each state.
        length, capacity
            The number of keys stored so far, and for how many there is memory.
        firsts
            int64 (rows,): the first key that a row sees, as the keys before it are padding; by default 0.
        out
            Memory for the logits, contiguous and of the program's dtype.
        """
        places = self._places("step", tokens, positions, firsts, length, capacity, states)
        shape = (len(tokens), self.vocabulary)
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(
                f"step: out must be contiguous, writeable, of shape {shape} and dtype {self.dtype}, "
                f"got shape {out.shape} and dtype {out.dtype}"
            )
        self._program.step(*places, out)
        return out

    def generate(
        self,
        tokens: Array,
        positions: Array,
        states: Array,
        max_new_tokens: int,
        *,
        length: int = 0,
        capacity: int = 0,
        firsts: Array | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        uniform: Array | None = None,
        stops: Array | None = None,
        pad: int = 0,
        seen: Array | None = None,
    ) -> tuple[Array, int]:
        """Return new tokens (rows, max_new_tokens), and the number of steps until the last row ended.

        ``tokens`` are those of the first step. The options have the meaning and the order of transformers' logits
        processors; 0 and 1 are neutral. A token is the first, in increasing order, at which the sum of the
        probabilities exceeds ``uniform`` (rows, max_new_tokens) of float64 in [0, 1); without it, the most probable
        one. A row ends with a token of ``stops``, and ``pad`` follows. ``seen`` (rows, n) has earlier tokens for the
        repetition penalty, -1 for none. The capacity must have room for all steps. After an interruption, the states
        are not defined.
        """
        places = self._places("generate", tokens, positions, firsts, length, capacity, states)
        rows, steps = len(tokens), count("generate", "max_new_tokens", max_new_tokens, 1)
        out = np.empty((rows, steps), np.int64)
        if uniform is not None:
            check_array("generate", "uniform", uniform, ("float64",))
            _check_shape("generate", "uniform", uniform, (rows, steps))
        stops = np.zeros(0, np.int64) if stops is None else stops
        seen = np.zeros((rows, 0), np.int64) if seen is None else seen
        for name, x in (("stops", stops), ("seen", seen)):
            check_array("generate", name, x, ("int64",))
        stops, seen = np.ascontiguousarray(stops), np.ascontiguousarray(seen)
        _check_shape("generate", "stops", stops, (stops.size,))
        _check_shape("generate", "seen", seen, (rows, seen.shape[-1] if seen.ndim else 0))
        options = (temperature, top_k, top_p, min_p, repetition_penalty)
        done = self._program.generate(*places, options, uniform, stops, pad, seen, out)
        return out, done

    def _places(
        self,
        function: str,
        tokens: Array,
        positions: Array,
        firsts: Array | None,
        length: int,
        capacity: int,
        states: Array,
    ) -> tuple[Array, Array, Array | None, int, int, Array]:
        """Return the first arguments of the compiled calls, after a check of the arrays; values are checked there."""
        arrays = {"tokens": tokens, "positions": positions, "states": states}
        if firsts is not None:
            arrays["firsts"] = firsts
        for name, x in arrays.items():
            check_array(function, name, x, ("int64",))
            if name == "tokens" and x.ndim != 1:
                raise ValueError(f"{function}: tokens must have one axis, got shape {x.shape}")
            _check_shape(function, name, x, (len(self.plan.states) if name == "states" else len(tokens),))
        for name, n in (("length", length), ("capacity", capacity)):
            if not isinstance(n, int):
                raise TypeError(f"{function}: {name} must be an int, got {type_name(n)}")
        return tokens, positions, firsts, length, capacity, states


def _check_shape(function: str, name: str, x: Array, shape: tuple[int, ...]) -> None:
    if x.shape != shape or not x.flags.c_contiguous:
        got = x.shape if x.shape != shape else "strides"
        raise ValueError(f"{function}: {name} must be contiguous with shape {shape}, got {got}")
