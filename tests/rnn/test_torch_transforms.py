"""Recurrent modules and functions under torch.export, torch.compile, torch.func and torch's parallel wrappers."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from torch.export import Dim  # noqa: E402
from torch.func import functional_call, grad, jacrev, jvp, vmap  # noqa: E402

import fastiter.torch  # noqa: E402
from fastiter._torch.linear import linear  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import F64, KINDS, B, H, I, T, make, make_input, make_states, one_thread, randn  # noqa: E402, F401
from tests.support.cases import STATES, rnn_inputs  # noqa: E402

EVERY = [*KINDS, "sLSTM"]
every_kind = pytest.mark.parametrize("kind", EVERY)
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning",  # torch's own, in tracing
    "ignore:.torch.jit.script. is deprecated",
    "ignore:Please use the new API settings to control TF32",
    "ignore:.*does not support .*builtin:UserWarning",
)
ROWS, STEPS = Dim("B", min=1, max=64), Dim("T", min=1, max=512)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# --- export and compile ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lstm_proj", "gru", "tanh", "sLSTM"])
def test_export_with_any_length_and_batch(kind):
    """A layer of each class, with states; those without states are of every kind in the next test."""
    batch_first = kind in ("gru", "sLSTM", "tanh")
    module = make(ours, kind, num_layers=2, bidirectional=True, batch_first=batch_first, dtype=F64).eval()
    states = make_states(module, 2)
    hx = states[0] if len(states) == 1 else tuple(states)
    rows = {1: ROWS} if len(states) == 1 else ({1: ROWS},) * len(states)
    shapes = ({0: ROWS, 1: STEPS} if batch_first else {0: STEPS, 1: ROWS}, rows)
    x = randn(2, 3, I) if batch_first else randn(3, 2, I)
    exported = torch.export.export(module, (x, hx), dynamic_shapes=shapes).module()
    for steps, batch in ((1, 1), (7, 5)):
        states = make_states(module, batch)
        hx = states[0] if len(states) == 1 else tuple(states)
        x = randn(batch, steps, I) if batch_first else randn(steps, batch, I)
        torch.testing.assert_close(exported(x, hx), module(x, hx), rtol=0, atol=0)


@every_kind
def test_an_exported_graph_keeps_nothing_for_gradients(kind):
    module, x = make(ours, kind, checkpoint=2), randn(3, 2, I, dtype=torch.float32)
    graph = torch.export.export(module, (x,), dynamic_shapes=({0: STEPS, 1: ROWS},)).module()
    for steps in (1, 4, 9):
        x = randn(steps, 3, I, dtype=torch.float32)
        torch.testing.assert_close(graph(x), module(x), rtol=0, atol=0)


class Cell(torch.nn.Module):
    def forward(self, wx, lengths):
        return fastiter.torch.gru(wx, torch.full((3, 2, 4, 4), 0.1, dtype=F64), lengths=lengths)


def test_export_of_a_function():
    given = randn(3, 5, 3, 2, 4), torch.tensor([5, 1, 2])
    exported = torch.export.export(Cell(), given, dynamic_shapes=({0: ROWS, 1: STEPS}, {0: ROWS})).module()
    other = randn(4, 9, 3, 2, 4), torch.tensor([9, 0, 3, 4])
    torch.testing.assert_close(exported(*other), Cell()(*other), rtol=0, atol=0)


def test_compiles_once_for_all_lengths():
    torch._dynamo.reset()
    every, graphs = [make(ours, kind, num_layers=2 if kind == "gru" else 1, dtype=F64).eval() for kind in EVERY], []

    def module(x):
        return [one(x) for one in every]

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(module, dynamic=True, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(allow_rnn=True):
        for steps, batch in ((3, 2), (9, 4), (20, 5)):
            x = randn(steps, batch, I)
            torch.testing.assert_close(compiled(x), module(x), rtol=0, atol=0)
    assert len(graphs) == 1


def test_functions_that_torch_compile_skips_are_not_traced_in_parts():
    """Under torch.func, traced parts of the ops' implementations would pass the kernels tensors without memory."""
    module, x = make(ours, "gru", dtype=F64), make_input("time")
    torch._dynamo.reset()
    compiled = torch.compile(grad(lambda x: module(x)[0].sum()), backend="aot_eager")
    expected = grad(lambda x: module(x)[0].sum())(x)
    for _ in range(3):
        assert_close(compiled(x), expected)


@pytest.mark.parametrize("packed", [False, True])
def test_a_graph_break_at_a_layer_warns_of_nothing(packed, recwarn):
    """Without allow_rnn the layer runs eagerly, and Dynamo compiles none of its parts."""
    torch._dynamo.reset()
    layer, graphs = make(ours, "lstm", num_layers=2, bidirectional=True, dropout=0.3, dtype=F64).eval(), []

    def model(x, lengths):
        x = 2 * x
        given = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False) if packed else x
        return layer(given)[1][0] + 1

    def backend(graph, _):
        graphs.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    x, lengths = make_input("time"), torch.tensor([T, 1, 2, 1])
    recwarn.clear()
    found = torch.compile(model, backend=backend)(x, lengths)
    assert [str(one.message) for one in recwarn if "builtin" in str(one.message)] == []
    assert_close(found, model(x, lengths))
    assert all("fastiter" not in str(target) for one in graphs for target in one)


@every_kind
@pytest.mark.parametrize("layout", ["time", "batch", "unbatched"])
def test_shapes_on_the_meta_device(kind, layout):
    options = {"num_layers": 2, "bidirectional": True, "batch_first": layout == "batch"}
    x = make_input(layout)
    expected = make(ours, kind, dtype=F64, **options)(x)
    found = make(ours, kind, dtype=F64, device="meta", **options)(x.to("meta").requires_grad_())
    shapes = [[(y.shape, y.dtype) for y in torch.utils._pytree.tree_leaves(result)] for result in (found, expected)]
    assert shapes[0] == shapes[1] and found[0].is_meta
    found[0].sum().backward()
    packed = torch.nn.utils.rnn.pack_padded_sequence(make_input("time").to("meta"), [3, 2, 2, 1])
    with pytest.raises(fastiter.BackendError, match="input must be on the CPU or a CUDA device, got meta"):
        make(ours, kind, dtype=F64, device="meta")(packed)


# --- torch.func ------------------------------------------------------------------------------------------------------


def parameters_of(module):
    return {name: p.detach() for name, p in module.named_parameters()}


@every_kind
def test_gradients_for_each_sample_and_models_side_by_side(kind):
    module = make(ours, kind, num_layers=2, bidirectional=True, dtype=F64)
    weights, x = parameters_of(module), randn(3, T, 2, I)

    def loss(weights, x):
        y, last = functional_call(module, weights, (x,))
        return y.square().sum() + (last[0] if isinstance(last, tuple) else last).sum()

    together = vmap(grad(loss), in_dims=(None, 0))(weights, x)
    for i, sample in enumerate(x):
        module.zero_grad()
        loss(dict(module.named_parameters()), sample).backward()
        for name, p in module.named_parameters():
            assert_close(together[name][i], p.grad)
    halves = {name: torch.stack([p, p / 2]) for name, p in weights.items()}
    losses = vmap(loss, in_dims=(0, None))(halves, x[0])
    assert_close(losses[1], loss({name: p / 2 for name, p in weights.items()}, x[0]))


def test_gradients_of_initial_states_and_jacobians():
    module, x = make(ours, "lstm", dtype=F64), randn(3, 2, I)
    states = make_states(module, 2)
    found = grad(lambda hx: module(x, hx)[0].square().sum())(tuple(states))
    leaves = [s.requires_grad_() for s in states]
    assert_close(list(found), list(torch.autograd.grad(module(x, tuple(leaves))[0].square().sum(), leaves)))
    jacobian = jacrev(lambda x: module(x)[0])(x)
    assert_close(jacobian.sum((0, 1, 2)), grad(lambda x: module(x)[0].sum())(x))
    weight, bias = randn(4, I), randn(4)
    assert_close(vmap(grad(lambda x: linear(x, weight, bias).sum()))(x[0]), weight.sum(0).expand(2, I))


@pytest.mark.parametrize("cell", STATES)
@pytest.mark.parametrize(
    "options",
    [{}, {"lengths": [5, 0, 2]}, {"checkpoint": 2, "return_all_states": True}, {"clip_grad": 0.1, "clip_state": 0.5}],
)
def test_functions(cell, options):
    inputs = rnn_inputs(cell, 3, 5, 2, 4, "float64")
    wx, r, b, *state = (torch.from_numpy(x) for x in (*inputs[:3], *inputs.state))

    def loss(wx, r, b, state):
        h, last, *every = getattr(fastiter.torch, cell)(wx, r, b, state, **options)
        return sum(x.square().sum() for x in (h, *last, *(every[0] if every else ())))

    *found, found_state = grad(loss, argnums=(0, 1, 2, 3))(wx, r, b, state)
    leaves = [x.clone().requires_grad_() for x in (wx, r, b, *state)]
    expected = torch.autograd.grad(loss(*leaves[:3], leaves[3:]), leaves)
    torch.testing.assert_close([*found, *found_state], list(expected), rtol=0, atol=0)
    for_each = vmap(grad(loss, argnums=1), in_dims=(0, None, None, None))(torch.stack([wx, wx]), r, b, state)
    assert_close(for_each[1], expected[1])


@pytest.mark.parametrize("cell", STATES)
def test_all_states_are_those_without_a_transform(cell):
    inputs = rnn_inputs(cell, 3, 5, 2, 4, "float64")
    wx, r, b, *state = (torch.from_numpy(x) for x in (*inputs[:3], *inputs.state))

    def every(wx):
        states = getattr(fastiter.torch, cell)(wx, r, b, state, return_all_states=True)[2]
        return sum(x.sum() for x in states), states

    _, found = grad(every, has_aux=True)(wx)
    torch.testing.assert_close(found, every(wx)[1], rtol=0, atol=0)


def test_packed_sequences_have_gradients_too():
    module = make(ours, "gru", bidirectional=True, dtype=F64)
    packed = torch.nn.utils.rnn.pack_padded_sequence(make_input("time"), [6, 4, 4, 1])

    def loss(weights):
        return functional_call(module, weights, (packed,))[0].data.square().sum()

    found = grad(loss)(parameters_of(module))
    loss(dict(module.named_parameters())).backward()
    for name, p in module.named_parameters():
        assert_close(found[name], p.grad)


def test_derivatives_that_torch_func_does_not_support():
    module, x = make(ours, "gru", dtype=F64), make_input("time")

    def total(x):
        return module(x)[0].sum()

    with pytest.raises(NotImplementedError, match="implement the jvp function"):
        jvp(total, (x,), (x,))


# --- wrappers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def gradients(module, x):
    module.zero_grad()
    module(x)[0].square().sum().backward()
    return [p.grad for p in module.parameters()]


def test_parallel_wrappers(one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module, x = make(ours, "lstm", num_layers=2, dtype=F64), make_input("time")
    expected = gradients(module, x)
    replicated = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(module))
    sharded = torch.nn.Sequential(copy.deepcopy(module))
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    for wrapped in (replicated, torch.nn.DataParallel(copy.deepcopy(module)), sharded):
        for found, g in zip(gradients(wrapped, x), expected, strict=True):
            assert getattr(found, "full_tensor", lambda found=found: found)().equal(g)


def test_vmap_over_an_empty_batch() -> None:
    """A batch of size 0 gives results of batch size 0 with the usual shapes, as torch's functions do."""
    r = torch.randn(4, 1, 3, 3)

    def loss(r: torch.Tensor, wx: torch.Tensor) -> torch.Tensor:
        h, (_, c) = fastiter.torch.lstm(wx, r)
        return h.sum() + c.sum()

    for count in (0, 2):
        wx = torch.randn(count, 2, 5, 4, 1, 3)
        h, (last, _) = torch.vmap(lambda x: fastiter.torch.lstm(x, r))(wx)
        assert h.shape == (count, 2, 5, 1, 3) and last.shape == (count, 2, 1, 3)
        assert torch.vmap(lambda x: fastiter.torch.lstm(x, r)[0], in_dims=-1)(wx.movedim(0, -1)).shape == h.shape
        assert torch.vmap(torch.func.grad(loss), (None, 0))(r, wx).shape == (count, *r.shape)
        module = fastiter.torch.nn.GRU(3, 4, 2, bidirectional=True)
        assert torch.vmap(lambda x, m=module: m(x)[0])(torch.randn(count, 5, 2, 3)).shape == (count, 5, 2, 8)


@every_kind
def test_torch_fx_records_a_call_as_one_node(kind):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([make(ours, kind, num_layers=2, dtype=F64), torch.nn.Tanh()])

        def forward(self, x, hx, lengths):
            y, last = self.layers[0](x)
            z, again = self.layers[0](x, hx, lengths=lengths)
            return self.layers[1](y), last, z, again

    model = Model()
    states = tuple(make_states(model.layers[0], 3))
    given = (randn(4, 3, I), states[0] if len(states) == 1 else states, torch.tensor([4, 0, 2]))
    traced = torch.fx.symbolic_trace(model)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert calls == ["layers.0", "layers.0", "layers.1"]
    torch.testing.assert_close(traced(*given), model(*given), rtol=0, atol=0)
