"""The ops under Inductor, as fallback kernels with and without implicit fallbacks, and in AOTInductor packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastiter.torch  # noqa: E402
import fastiter.torch.quant  # noqa: E402
from fastiter._torch.linear import linear  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.calls import assert_runs  # noqa: E402
from tests.rnn.torch_calls import Leaves, leaves, run  # noqa: E402
from tests.support.cases import RNN_CELLS, rnn_inputs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def of_inductor(function: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="inductor")


@pytest.fixture
def explicit() -> Any:
    """Configure Inductor like some projects: an op without a lowering or a registered fallback is an error."""
    with torch._inductor.config.patch(implicit_fallbacks=False, force_disable_caches=True):
        yield


def assert_same(fast: Any, function: Any, inputs: list[Any]) -> None:
    found = []
    for its in (fast, function):
        y = its(*inputs)
        outputs = [x for x in y if x.requires_grad]
        found.append([*y, *torch.autograd.grad(outputs, inputs, [torch.ones_like(x) for x in outputs])])
    for a, e in zip(*found, strict=True):
        assert torch.equal(a, e)


def recurrences(inputs: tuple[Any, ...], cells: list[tuple[str, str]], counts: list[int]) -> list[Any]:
    """Run all cells, each on the next of the inputs, of which there are these numbers."""
    found, rest = [], inputs
    for (cell, activation), count in zip(cells, counts, strict=True):
        (wx, r, b, *state), rest = rest[:count], rest[count:]
        h, last, states = run(cell, activation, Leaves(wx, r, b, tuple(state)))
        found += [h, *last, *states[1:]]
    return found


def test_ops_without_implicit_fallbacks(explicit: Any) -> None:
    """A graph of all cells and of other ops: compiling takes seconds."""
    cells = [which for which in RNN_CELLS if which[1] != "relu"]
    of_cells = [leaves(rnn_inputs(cell, 3, 5, 2, 5, np.float32)).all() for cell, _ in cells]
    counts = [len(its) for its in of_cells]
    randn, pattern = torch.randn, (torch.arange(4), torch.arange(3))  # a diagonal matrix

    def function(
        x: Any, weight: Any, bias: Any, a: Any, b: Any, y: Any, values: Any, c: Any, *inputs: Any
    ) -> list[Any]:
        solution = fastiter.torch.relax.sor((*pattern, values), c, rtol=1e-4).value
        relaxed = fastiter.torch.relax.sweeps((*pattern, values), c, solution, omega=1.1, sweeps=2)
        rounded = fastiter.torch.quant.quantize(y, "fixed<8,4>")
        found = [linear(x, weight, bias), fastiter.torch.linear_scan(a, b)[0], rounded, relaxed]
        return found + recurrences(inputs, cells, counts)

    given = [randn(2, 5, 3), randn(7, 3), randn(7), torch.rand(2, 6, 4), randn(2, 6, 4), randn(3, 8)]
    given += [torch.rand(3).add(1), randn(3)]
    assert_same(
        of_inductor(function), function, [x.requires_grad_() for x in given] + [x for its in of_cells for x in its]
    )


def test_every_op_is_registered_with_inductor() -> None:
    """The fake version registers the op, since Inductor calls it before it looks for a lowering."""
    names = [name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastiter::")]
    assert len(names) > 15
    for name in names:
        fake = torch._library.simple_registry.singleton.find(name).fake_impl.kernel
        inside = [cell.cell_contents for cell in fake.func.__closure__]  # torch adds its own wrapper
        assert any(hasattr(function, "__wrapped__") for function in inside), name


class Model(torch.nn.Module):
    """A stack of all recurrent layers, called without states."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            [
                ours.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True),
                ours.GRU(12, 6, num_heads=2, batch_first=True),
                ours.RNN(6, 4, nonlinearity="relu", batch_first=True),
                ours.sLSTM(4, 6, num_heads=2, batch_first=True),
            ]
        )

    def forward(self, x: Any) -> Any:
        found = []
        for layer in self.layers:
            x, last = layer(x)
            found += [last] if isinstance(last, torch.Tensor) else list(last)
        return (x, *found)


LOAD = """
import sys, torch, fastiter.torch
package = torch._inductor.aoti_load_package(sys.argv[1])
for x, expected in torch.load(sys.argv[2]):
    for a, e in zip(package(x), expected, strict=True):
        assert torch.equal(a, e), (a - e).abs().max()
print("done")
"""


def test_a_package_of_aotinductor_needs_no_state(tmp_path: Path) -> None:
    """The package is loaded in a separate process and run for sizes other than those of its export."""
    torch.manual_seed(0)
    model, sizes = Model().eval(), {0: torch.export.Dim("B", min=1), 1: torch.export.Dim("T", min=1)}
    program = torch.export.export(model, (torch.randn(3, 4, 5),), dynamic_shapes=(sizes,))
    # Each header is included once: it would take twice as long to precompile it first.
    how = {"implicit_fallbacks": False, "aot_inductor.compile_wrapper_opt_level": "O0"}
    how["aot_inductor.precompile_headers"] = False
    with torch._inductor.config.patch(how):
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    given = [torch.randn(B, T, 5) for B, T in ((3, 4), (1, 1), (2, 7))]
    with torch.no_grad():
        torch.save([(x, model(x)) for x in given], tmp_path / "expected.pt")
    out = assert_runs("-W", "ignore", "-c", LOAD, str(package), str(tmp_path / "expected.pt"))
    assert out.split() == ["done"]
