"""Wrong arguments of every public function of fastiter.torch: the class, and a one-sentence message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch.nn  # noqa: E402
from fastiter.rnn._torch.run import packed  # noqa: E402
from tests.newton.calls import PARA_CELLS  # noqa: E402
from tests.support.error_cases import (  # noqa: E402
    CELLS,
    EITHER,
    ELSEWHERE,
    TYPE,
    VALUE,
    Wrong,
    assert_refused,
    assert_tensors_refused,
    in_torch,
    valid,
    wrong_activations,
    wrong_dtypes,
    wrong_flags,
    wrong_lengths,
    wrong_shapes,
    wrong_states,
    wrong_types,
)

BACKEND = (fastiter.BackendError,)
every_cell = pytest.mark.parametrize("cell", CELLS)


def test_every_public_function_is_covered() -> None:
    own_files = {
        "Accelerated",
        "Decoder",
        "FlashRNNConfig",
        "RecurrenceSolution",
        "Replaced",
        "Restored",
        "RnnResult",
        "RnnStates",
        "accelerate",
        "bcd",
        "compat",
        "decode",
        "distributed",
        "experimental",
        "fixedpoint",
        "flashrnn",
        "mdp",
        "nn",
        "onnx",
        "quant",
        "relax",
        "replace",
        "restore",
        "solve_recurrence",
        "ssm",
    }
    assert set(fastiter.torch.__all__) == {*CELLS, *PARA_CELLS, *ELSEWHERE, *own_files}


def tensor(x: Any) -> Any:
    return torch.from_numpy(np.array(x))


def given(cell: str) -> dict[str, Any]:
    return valid(cell, tensor)


def cast(x: Any, dtype: str) -> Any:
    return x.to(getattr(torch, dtype))


def check(cell: str, cases: Iterable[Wrong]) -> None:
    assert_tensors_refused(getattr(fastiter.torch, cell), given(cell), cases, "r")


@every_cell
def test_valid_arguments_are_accepted(cell: str) -> None:
    h, _ = getattr(fastiter.torch, cell)(**given(cell), lengths=[4, 0, 2], reverse=True)
    assert not h.isnan().any()


@every_cell
def test_types(cell: str) -> None:
    check(cell, wrong_types(given(cell), cell))


@every_cell
def test_arrays_are_refused_where_tensors_are_expected(cell: str) -> None:
    x = given(cell)["wx"].numpy()
    check(cell, [Wrong("wx is an array", {"wx": x}, TYPE, "wx", "ndarray")])


@every_cell
def test_dtypes(cell: str) -> None:
    names = ["int64", "int32", "uint8", "bool", "float16", "complex64"]
    check(cell, wrong_dtypes(given(cell), cell, cast, names))


@every_cell
def test_shapes(cell: str) -> None:
    check(cell, in_torch(wrong_shapes(given(cell), cell)))


@every_cell
def test_states(cell: str) -> None:
    cases = [w for w in wrong_states(given(cell), cell) if "generator" not in w.label]
    check(cell, cases)
    check(cell, [Wrong("a generator", {"state": (s for s in ())}, TYPE, "state", "generator")])


@every_cell
def test_lengths(cell: str) -> None:
    check(cell, in_torch(wrong_lengths(torch.tensor)))
    for x in (torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1, 1, 1]).bool(), np.array([1.0, 1.0, 1.0])):
        check(cell, [Wrong(str(x), {"lengths": x}, TYPE, "lengths", str(x.dtype).removeprefix("torch."))])
    for x in (torch.tensor([5, 0, 2]), np.array([5, 0, 2]), torch.tensor([5, 0, 2], dtype=torch.uint8)):
        check(cell, [Wrong(str(x), {"lengths": x}, VALUE, "lengths", "5")])


@every_cell
def test_flags(cell: str) -> None:
    check(cell, wrong_flags())
    x = torch.tensor(True)
    check(cell, [Wrong("reverse is a tensor", {"reverse": x}, TYPE, "reverse", "Tensor")])


def test_activation() -> None:
    check("elman", wrong_activations())


@every_cell
def test_unknown_arguments(cell: str) -> None:
    with pytest.raises(TypeError, match=cell):
        getattr(fastiter.torch, cell)(**given(cell), length=[1, 1, 1])
    with pytest.raises(TypeError, match=cell):
        getattr(fastiter.torch, cell)(*given(cell).values(), True)


# --- devices and kinds of tensors ------------------------------------------------------------------------------------


@every_cell
def test_one_tensor_on_another_device(cell: str) -> None:
    arguments, errors = given(cell), (*BACKEND, *VALUE)
    h, *others = arguments["state"]
    lengths = torch.tensor([4, 0, 2], device="meta")
    check(
        cell,
        [
            Wrong("wx on meta", {"wx": arguments["wx"].to("meta")}, errors, "wx|r", "(cpu|meta)"),
            Wrong("r on meta", {"r": arguments["r"].to("meta")}, errors, "r", "meta"),
            Wrong("b on meta", {"b": arguments["b"].to("meta")}, errors, "b", "meta"),
            Wrong("h on meta", {"state": (h.to("meta"), *others)}, errors, "state h", "meta"),
            Wrong("lengths on meta", {"lengths": lengths}, errors, "lengths", "meta"),
        ],
    )


@every_cell
def test_tensors_of_a_gpu(cell: str) -> None:
    """Tested without a GPU by fake tensors that report a CUDA device."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        arguments = given(cell)
        shapes = {name: arguments[name].shape for name in ("wx", "r", "b")}
        on_gpu = {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}
        on_cpu = {name: torch.empty(shape) for name, shape in shapes.items()}
        h, last = getattr(fastiter.torch, cell)(**on_gpu)
        assert {x.device.type for x in (h, *last)} == {"cuda"}
        for name in ("wx", "r"):
            changes = {name: on_gpu[name]}
            wrong = Wrong(f"{name} on a GPU", {}, BACKEND, "r", "(cpu|cuda)")
            every = {**on_cpu, **changes}
            assert_refused(cell, lambda every=every: getattr(fastiter.torch, cell)(**every), wrong)


@every_cell
def test_sparse_tensors(cell: str) -> None:
    arguments = given(cell)
    h, *others = arguments["state"]
    changes = {name: {name: arguments[name].to_sparse()} for name in ("wx", "r", "b")}
    changes["state h"] = {"state": (h.to_sparse(), *others)}
    check(cell, [Wrong(f"{name} is sparse", change, EITHER, name, "sparse") for name, change in changes.items()])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@every_cell
def test_nested_tensors(cell: str) -> None:
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([*given(cell)["wx"]], layout=layout)
        got = "nested" if layout is torch.strided else "(nested|jagged)"
        check(cell, [Wrong("wx is nested", {"wx": nested}, TYPE, "wx", got)])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("kind", ["LSTM", "sLSTM", "QuantLSTM", "DeltaNet", "ParaGRU", "LinearRNN"])
def test_nested_inputs_of_layers(kind: str) -> None:
    nested = torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(2, 4)])
    with pytest.raises(TypeError, match=f"^{kind}: input must be a dense tensor, got a nested one$"):
        getattr(fastiter.torch.nn, kind)(4, 8)(nested)


# --- packed: the modules' entry point, which checks what they do not -------------------------------------------------


@pytest.mark.parametrize("cell", ["elman_tanh", "elman_relu", "lstm", "gru", "slstm"])
def test_packed(cell: str) -> None:
    arguments = given(cell.split("_")[0])
    wx, sizes = arguments["wx"].reshape(-1, *arguments["wx"].shape[2:]), torch.tensor([3, 3, 3, 3])
    right = {"r": arguments["r"], "b": arguments["b"], "state": arguments["state"]}
    packed(cell, wx, sizes, **right)
    function = rf"{cell}|{cell.split('_')[0]}"
    for label, wrong_wx, changes, errors, argument in (
        ("too few rows", wx[1:], {}, VALUE, "(packed )?wx"),
        ("a rank too high", wx[None], {}, VALUE, "(packed )?wx"),
        ("too few gates", wx[:, 1:], {}, VALUE, "(packed )?wx"),
        ("wrong dtype", wx.half(), {}, TYPE, "wx"),
        ("wrong r", wx, {"r": right["r"][..., 1:]}, VALUE, "r"),
        ("wrong b", wx, {"b": right["b"][..., 1:]}, VALUE, "b"),
        ("wrong batch", wx, {"state": tuple(s[1:] for s in right["state"])}, VALUE, "state h"),
        ("too few states", wx, {"state": ()}, VALUE, "state"),
    ):
        wrong = Wrong(label, {}, errors, argument, "")
        every = {**right, **changes}
        assert_refused(f"({function})", lambda x=wrong_wx, e=every: packed(cell, x, sizes, **e), wrong)


def test_messages_show_no_tensor() -> None:
    """No message prints a whole tensor, which would make it unreadable."""
    arguments = given("lstm")
    with pytest.raises(ValueError, match=re.escape("(3, 4)")) as raised:
        fastiter.torch.lstm(**{**arguments, "wx": arguments["wx"][..., 0, 0, 0]})
    assert len(str(raised.value)) < 120


def test_states_beside_bfloat16():
    wx, r, h = (torch.zeros(shape, dtype=torch.bfloat16) for shape in ((2, 3, 4, 1, 5), (4, 1, 5, 5), (2, 1, 5)))
    for c in (h, h.double(), h.long()):
        expected = f"lstm: state c must have dtype torch.float32 to go with bfloat16 wx, got {c.dtype}"
        with pytest.raises(TypeError, match=f"^{expected}$"):
            fastiter.torch.lstm(wx, r, None, (h, c))
