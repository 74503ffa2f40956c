"""`import fastiter.torch` registers every op, and imports an op's family only when the op or a function is called."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")

from fastiter._torch.schemas import ON_CPU_ONLY, SCHEMAS
from tests.core.tools import op_schemas


def test_the_table_equals_the_ops() -> None:
    """If this fails, run python -m tests.core.tools.op_schemas."""
    assert op_schemas.schemas() == SCHEMAS
    assert op_schemas.on_cpu_only() == ON_CPU_ONLY


#: Each function runs in a child of a process that has imported nothing else.
_PROGRAM = """
import os, pickle, sys, warnings
import torch
import fastiter.torch
from fastiter._torch import op as ops
from torch._subclasses.fake_tensor import FakeTensorMode

warnings.simplefilter("error")
families = "accelerate bcd delta fixedpoint mdp newton quant relax rnn scan ssm tune".split()
loaded = [name for name in sys.modules if name.startswith("fastiter.") and name.split(".")[-1] == "_torch"]
assert loaded == ["fastiter._torch"], loaded
assert not [name for name in ("triton", "transformers", "fla", "cupy", "sklearn") if name in sys.modules]

x, a = torch.randn(2, 5, 3), torch.rand(2, 5, 3)
call = (a, x, None, False, None, None, None)


def each_op_finds_its_module(module):
    for name in ops.SCHEMAS[module]:
        op = ops.named(name)
        assert (op.cuda is None) == (name in ops.ON_CPU_ONLY), name


def each_op_is_whole_after_the_layers():
    import fastiter.torch.nn

    for name in ops._MODULES:
        assert (ops.named(name).cuda is None) == (name in ops.ON_CPU_ONLY), name


def dispatched():
    expected = torch.ops.fastiter._linear_scan_fwd(*call)[0]
    assert torch.equal(fastiter.torch.linear_scan(a, x)[0], expected)


def faked():
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in (a, x)]
        assert torch.ops.fastiter._linear_scan_fwd(*fakes, *call[2:])[0].shape == x.shape
    assert not isinstance(fastiter.torch.linear_scan(a, x)[0], torch._subclasses.FakeTensor)


def vmapped():
    many = torch.vmap(lambda x: torch.ops.fastiter._linear_scan_fwd(a, x, *call[2:])[0])(torch.stack([x, 2 * x]))
    assert torch.equal(many[0], fastiter.torch.linear_scan(a, x)[0])


def compiled():
    warnings.simplefilter("default")  # of Dynamo about autograd functions
    function = torch.compile(lambda a, x: fastiter.torch.linear_scan(a, x)[0], backend="eager", fullgraph=True)
    assert torch.equal(function(a, x), fastiter.torch.linear_scan(a, x)[0])


def pickled():
    from fastiter.torch.nn import LSTM

    layer = LSTM(2, 3)
    result = fastiter.rnn._torch.functional.lstm(torch.randn(1, 2, 4, 1, 3), torch.randn(4, 1, 3, 3))
    for thing in (layer, result):
        assert type(thing).__module__.startswith("fastiter.torch"), type(thing)
        assert type(pickle.loads(pickle.dumps(thing))) is type(thing)


def accelerated():
    model = fastiter.torch.accelerate(torch.nn.Sequential(torch.nn.LSTM(2, 3)))
    assert type(model[0]).__module__ == "fastiter.torch.nn", type(model[0])


def names_and_parts():
    for name in fastiter.torch.__all__:
        value = getattr(fastiter.torch, name)
        is_module = type(value) is type(sys)
        assert is_module == (f"fastiter.torch.{name}" in sys.modules and name not in ("replace", "flashrnn")), name


each = [(lambda module=module: each_op_finds_its_module(module)) for module in ops.SCHEMAS]
calls = [each_op_is_whole_after_the_layers, dispatched, faked, vmapped, compiled, pickled, accelerated, names_and_parts]
for function in [*each, *calls]:
    child = os.fork()
    if not child:
        try:
            function()
        except BaseException as error:
            print(getattr(function, "__name__", ""), repr(error))
            sys.stdout.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("passed")
"""


def test_families_are_imported_on_first_use() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    assert done.stdout.split() == ["passed"], done.stdout + done.stderr
