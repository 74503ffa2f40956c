"""Plans and calls that a program refuses, each with one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastiter.decode import plan as p
from tests.decode.machines import Machine, packed
from tests.decode.program.operations import Case, make


def changed(name: str, **fields: Any) -> Callable[[], Machine]:
    """Return a function that makes the program of a case, of whose step with these fields they replace the values."""

    def build() -> Machine:
        plan, parameters = make(name)
        index = max(i for i, step in enumerate(plan.steps[:-1]) if fields.keys() <= vars(step).keys())
        new = {key: x(getattr(plan.steps[index], key)) if callable(x) else x for key, x in fields.items()}
        steps = list(plan.steps)
        steps[index] = replace(steps[index], **new)
        return Machine(replace(plan, steps=tuple(steps)), parameters, "float32", 1, 4)

    return build


def longer(by: int = 1) -> Callable[[p.Slot], p.Slot]:
    return lambda slot: p.Slot(slot.name, slot.start - 1, slot.size + by)


def other(shape: tuple[int, ...], kind: Any = None) -> Callable[[p.State], p.State]:
    return lambda state: replace(state, shape=shape, kind=kind or state.kind)


def of_plan(change: Callable[[p.Plan], p.Plan], name: str = "conv") -> Callable[[], Machine]:
    def build() -> Machine:
        plan, parameters = make(name)
        return Machine(change(plan), parameters, "float32", 1, 4)

    return build


def shared_state() -> Machine:
    case = Case()
    x, state = case.input(8), case.state("conv", 2, 8)
    conv = p.Conv(x, case.output(8), state, case.numbers(3, 8))
    plan = case.plan(conv, replace(conv, x=x))
    return Machine(plan, case.parameters, "float32", 1)


def states_replaced(name: str, **states: tuple[tuple[int, ...], Any]) -> Callable[[], Machine]:
    """Replace states of a case's operation, also in the plan."""

    def build() -> Machine:
        plan, parameters = make(name)
        index = max(i for i, step in enumerate(plan.steps[:-1]) if states.keys() <= vars(step).keys())
        steps, kept = list(plan.steps), list(plan.states)
        for field, (shape, kind) in states.items():
            old = getattr(steps[index], field)
            new = replace(old, shape=shape, kind=kind or old.kind)
            kept[kept.index(old)] = new
            steps[index] = replace(steps[index], **{field: new})
        return Machine(replace(plan, steps=tuple(steps), states=tuple(kept)), parameters, "float32", 1, 4)

    return build


PLANS: dict[str, tuple[Callable[[], Any], str]] = {
    "no steps": (of_plan(lambda x: replace(x, steps=())), "the plan must have operations, got none"),
    "logits": (
        of_plan(lambda x: replace(x, steps=x.steps[:-1])),
        "the last operation must write the whole buffer 'logits', got 35 numbers of buffer 0",
    ),
    "empty buffer": (
        of_plan(lambda x: replace(x, buffers={**x.buffers, "more": 0})),
        "buffer 'more' must have at least 1 number, got 0",
    ),
    "empty state": (
        of_plan(lambda x: replace(x, states=(*x.states, p.State("s", "recurrent", (0, 4), 0)))),
        "the axes of state 's' must be at least 1, got 0",
    ),
    "unknown buffer": (
        changed("conv", x=p.Slot("none", 0, 35)),
        "the buffer must be one of the plan's, got 'none'",
    ),
    "unknown state": (
        of_plan(lambda x: replace(x, states=())),
        "the state must be one of the plan's, got 'conv.0.0'",
    ),
    "outside": (
        changed("conv", x=p.Slot("in", 6, 36)),
        r"operation 1 (Conv): x must be inside buffer 'in' of 41 numbers, got 36 numbers from 6 on",
    ),
    "negative": (
        changed("conv", x=p.Slot("in", -1, 35)),
        r"operation 1 (Conv): x must be inside buffer 'in' of 41 numbers, got 35 numbers from -1 on",
    ),
    "size": (changed("gate", a=longer()), "operation 1 (Gate): a must have 45 numbers, got 46"),
    "size of out": (
        changed("linear", matrix=lambda m: replace(m, rows=42)),
        "operation 1 (Linear): matrix must have shape (43, 37), got (42, 37)",
    ),
    "overlap": (
        changed("gate", out=lambda s: p.Slot("in", 5, 45)),
        "operation 1 (Gate): out must be an input or share no numbers with an input, "
        "got 45 numbers from 5 on, and an input's 45 from 4 on",
    ),
    "in place": (
        changed("selective", out=lambda s: p.Slot("in", 4, 37)),
        "operation 1 (Selective): out must share no numbers with an input, "
        "got 37 numbers from 4 on, and an input's 37 from 4 on",
    ),
    "activation": (
        changed("linear", activation="mish"),
        "activation must be one of 'silu', 'sigmoid', 'gelu', 'gelu_tanh', 'relu', 'relu2', 'softplus', 'tanh', 'exp', "
        "'softcap', 'clip', got 'mish'",
    ),
    "softcap": (
        changed("linear", activation="softcap"),
        "operation 1 (Linear): activation must be at least 0 and at most 9, got 10",
    ),
    "cap": (changed("activate clip", cap=-1.0), "operation 1 (Activate): cap must be above 0, got -1"),
    "bias": (changed("linear", bias=np.ones(3)), "operation 1 (Linear): bias must have 43 numbers, got 3"),
    "group": (changed("rms groups", size=16), "operation 1 (Norm): size must divide the 51 numbers of x, got 16"),
    "group above x": (
        changed("rms groups", size=52),
        "operation 1 (Norm): size must be at least 1 and at most 51, got 52",
    ),
    "weights of a norm": (
        changed("rms groups", weight=np.ones(5)),
        "operation 1 (Norm): weight must have 51 numbers, got 5",
    ),
    "window of a convolution": (
        states_replaced("conv", state=((2, 35), None)),
        "operation 1 (Conv): state must hold at least 3 inputs, got 2",
    ),
    "channels of a convolution": (
        states_replaced("conv", state=((4, 36), None)),
        "operation 1 (Conv): state must have shape (4, 35), got (4, 36)",
    ),
    "shared state": (
        shared_state,
        "operation 2 (Conv): state must belong to one operation, got state 'conv.0.0' again",
    ),
    "b": (changed("gate", b=np.ones(44)), "operation 1 (Gate): b must have 45 numbers, got 44"),
    "A": (changed("selective", A=np.ones((37, 5))), "operation 1 (Selective): A must have 592 numbers, got 185"),
    "groups of SSD": (changed("ssd", groups=4), "operation 1 (SSD): groups must divide the 6 heads, got 4"),
    "heads of Delta": (changed("delta", value_heads=5), "operation 3 (Delta): v must have 105 numbers, got 84"),
    "rotary": (changed("rope", rotary=7), "operation 1 (Rope): rotary must be even, got 7"),
    "rotary above the width": (
        changed("rope", rotary=14),
        "operation 1 (Rope): rotary must be at least 2 and at most 12, got 14",
    ),
    "frequencies": (changed("rope", rotary=6), "operation 1 (Rope): frequencies must have 3 numbers, got 4"),
    "key heads": (
        changed("attention", key_heads=4),
        "operation 1 (Attention): key_heads must divide the 6 heads, got 4",
    ),
    "kind of a state": (
        states_replaced("attention", keys=((2, 10), "recurrent")),
        "operation 1 (Attention): keys must be keys or values, got state 'keys.0.0'",
    ),
    "shape of values": (
        states_replaced("attention", values=((2, 8), None)),
        "operation 1 (Attention): values must have shape (2, 7), got (2, 8)",
    ),
    "latent keys": (
        changed("attention", latent=True, value_width=10),
        "operation 1 (Attention): value_width must be below the key_width of latent keys, got 10",
    ),
    "sinks": (changed("attention", sinks=np.ones(2)), "operation 1 (Attention): sinks must have 6 numbers, got 2"),
    "method": (
        changed("route", method="hash"),
        "method must be one of 'softmax', 'topk_softmax', 'sigmoid', got 'hash'",
    ),
    "top_k": (changed("route", top_k=13), "operation 1 (Route): top_k must be at least 1 and at most 12, got 13"),
    "top_k of groups": (
        changed("route groups", top_k=9),
        "operation 1 (Route): top_k must be at least 1 and at most 8, got 9",
    ),
    "groups of Route": (
        changed("route groups", groups=3),
        "operation 1 (Route): groups must divide the 20 experts, got 3",
    ),
    "number of experts": (
        changed("experts", down=lambda x: x[:4]),
        "operation 3 (Experts): matrices must number 15, got 14",
    ),
    "shape of an expert": (
        changed("experts", up=lambda x: (*x[1:], p.Matrix("matrix.10", 140, 150))),
        "operation 3 (Experts): up must have shape (150, 35), got (140, 150)",
    ),
    "states of MLstm": (
        states_replaced("mlstm", normalizer=((3, 8), None)),
        "operation 1 (MLstm): normalizer must have shape (3, 9), got (3, 8)",
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_is_refused(case: str) -> None:
    build, message = PLANS[case]
    with pytest.raises(ValueError, match=f"^{re.escape(f'Program: {message}')}$"):
        build()


def test_weights_of_another_dtype_are_refused() -> None:
    from fastiter.decode._program import Program

    plan, parameters = make("linear")
    for dtype, weights, got in (
        ("float32", "float64", "of another format than float64 in a program of float32"),
        ("float64", "float32", "of float64 in a program of float64"),
    ):
        matrices = {
            m: packed(parameters[m.name], weights)
            for m in (plan.steps[0].table, plan.steps[1].matrix)  # type: ignore[attr-defined]
        }
        with pytest.raises(ValueError, match=rf"operation 0 \(Embed\): table must be {got}$"):
            Program(plan, matrices, dtype)


def test_missing_weights_and_wrong_options_are_refused() -> None:
    from fastiter.decode._program import Program

    plan, _ = make("linear")
    with pytest.raises(ValueError, match="matrices must have all matrices of the plan, got none for Matrix"):
        Program(plan, {}, "float32")
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got float16"):
        Program(plan, {}, "float16")
    plan = replace(plan, steps=())
    for rows in (0, 9):
        with pytest.raises(ValueError, match=f"rows must be at least 1 and at most 8, got {rows}"):
            Program(plan, {}, "float32", rows)


def call(**places: Any) -> Callable[[Machine], Any]:
    def run(machine: Machine) -> Any:
        return machine.program.step(**{"tokens": np.array([1, 2]), **machine.places(), **places})

    return run


def generation(**options: Any) -> Callable[[Machine], Any]:
    def run(machine: Machine) -> Any:
        given = {"tokens": np.array([1, 2]), "max_new_tokens": 3, **machine.places(), **options}
        return machine.program.generate(**given)

    return run


CALLS: dict[str, tuple[Callable[[Machine], Any], type, str]] = {
    "tokens": (
        call(tokens=np.array([1, 11])),
        ValueError,
        "step: tokens must be at least 0 and below 11, got 11 at index 1",
    ),
    "negative token": (
        call(tokens=np.array([-1, 1])),
        ValueError,
        "step: tokens must be at least 0 and below 11, got -1 at index 0",
    ),
    "dtype of tokens": (
        call(tokens=np.array([1, 2], np.int32)),
        TypeError,
        "step: tokens must be a NumPy array of int64, got dtype int32",
    ),
    "axes of tokens": (
        call(tokens=np.array([[1, 2]])),
        ValueError,
        "step: tokens must have one axis, got shape (1, 2)",
    ),
    "positions": (
        call(positions=np.array([0, -2])),
        ValueError,
        "step: positions must be at least 0, got -2 at index 1",
    ),
    "shape of positions": (
        call(positions=np.array([0])),
        ValueError,
        "step: positions must be contiguous with shape (2,), got (1,)",
    ),
    "strides": (
        call(positions=np.arange(4)[::2]),
        ValueError,
        "step: positions must be contiguous with shape (2,), got strides",
    ),
    "states": (
        call(states=np.array([8])),
        ValueError,
        "step: states must be contiguous with shape (2,), got (1,)",
    ),
    "address": (
        call(states=np.array([64, 0])),
        ValueError,
        "step: state 'values.0.1' must have an address, got 0",
    ),
    "capacity": (
        call(length=9),
        ValueError,
        "step: capacity must be at least 10, the keys after the call, got 9",
    ),
    "length": (
        call(length=-1),
        ValueError,
        "step: capacity must be at least 0, the keys after the call, got 9",
    ),
    "firsts": (
        call(length=3, firsts=np.array([0, 4])),
        ValueError,
        "step: firsts must be at least 0 and at most the length 3, got 4 at index 1",
    ),
    "out": (
        call(out=np.empty((2, 5), np.float32)),
        ValueError,
        "step: out must be contiguous, writeable, of shape (2, 42) and dtype float32, "
        "got shape (2, 5) and dtype float32",
    ),
    "type of length": (call(length=1.0), TypeError, "step: length must be an int, got float"),
    "max_new_tokens": (
        generation(max_new_tokens=0),
        ValueError,
        "generate: max_new_tokens must be at least 1, got 0",
    ),
    "capacity of a generation": (
        generation(length=7),
        ValueError,
        "generate: capacity must be at least 10, the keys after the call, got 9",
    ),
    "temperature": (
        generation(temperature=0.0),
        ValueError,
        "generate: temperature must be finite and above 0, got 0",
    ),
    "top_k": (generation(top_k=-1), ValueError, "generate: top_k must be at least 0, got -1"),
    "top_p": (
        generation(top_p=1.5),
        ValueError,
        "generate: top_p must be above 0 and at most 1, got 1.5",
    ),
    "min_p": (
        generation(min_p=-0.5),
        ValueError,
        "generate: min_p must be at least 0 and at most 1, got -0.5",
    ),
    "repetition_penalty": (
        generation(repetition_penalty=float("inf")),
        ValueError,
        "generate: repetition_penalty must be finite and above 0, got inf",
    ),
    "uniform": (
        generation(uniform=np.array([[0.5, 0.5, 0.5], [0.5, 1.0, 0.5]])),
        ValueError,
        "generate: uniform must be at least 0 and below 1, got 1 at index 4",
    ),
    "shape of uniform": (
        generation(uniform=np.zeros((2, 4))),
        ValueError,
        "generate: uniform must be contiguous with shape (2, 3), got (2, 4)",
    ),
    "stops": (
        generation(stops=np.array([[1]])),
        ValueError,
        "generate: stops must be contiguous with shape (1,), got (1, 1)",
    ),
    "seen": (
        generation(seen=np.array([1, 2])),
        ValueError,
        "generate: seen must be contiguous with shape (2, 2), got (2,)",
    ),
    "pad": (generation(pad=11), ValueError, "generate: pad must be at least 0 and below 11, got 11 at index 0"),
    "vocabulary": (
        generation(),
        ValueError,
        "generate: the embedding must have all 42 tokens, got 11",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_is_refused_and_changes_nothing(case: str) -> None:
    run, kind, message = CALLS[case]
    machine = Machine(*make("attention"), "float32", 2, 9)
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        run(machine)
    assert all((x == 0).all() for x in machine.states.values())


@pytest.mark.parametrize("rows", [0, 9])
def test_too_few_and_too_many_rows_are_refused(rows: int) -> None:
    machine = Machine(*make("linear"), "float32", rows)
    with pytest.raises(ValueError, match=f"tokens must number at least 1 and at most 8, got {rows}$"):
        machine.step(np.zeros(rows, np.int64))
