"""Bad arguments of fastiter.torch.nn: the exceptions of torch.nn, in sentences that name what was expected."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import fastiter  # noqa: E402
from fastiter.torch import nn as ours  # noqa: E402
from tests.rnn.nn.cases_nn import (  # noqa: E402, F401
    F32,
    H,
    I,
    all_names,
    classes,
    make,
    make_states,
    no_onednn_projection,
    one_thread,
    pair,
)

pytestmark = no_onednn_projection


# --- errors ----------------------------------------------------------------------------------------------------------

x3, h3, h2 = torch.zeros(6, 4, I), torch.zeros(1, 4, H), torch.zeros(1, H)


def states_of(name, state):
    return (state, state) if name == "LSTM" else state


TORCH_REFUSES = {  # case, arguments by class name, words of the message
    "1-D": (lambda name: (x3[0, 0],), ["2 or 3 dimensions", "(5,)"]),
    "4-D": (lambda name: (x3[None],), ["2 or 3 dimensions", "(1, 6, 4, 5)"]),
    "features": (lambda name: (x3[..., :4],), ["input_size = 5", "got 4"]),
    "features unbatched": (lambda name: (x3[0, :, :4],), ["input_size = 5", "got 4"]),
    "float64": (lambda name: (x3.double(),), ["float32", "float64"]),
    "int64": (lambda name: (x3.long(),), ["float32", "int64"]),
    "bfloat16": (lambda name: (x3.bfloat16(),), ["float32", "bfloat16"]),
    "batch of hx": (lambda name: (x3, states_of(name, h3[:, :3])), ["hx", "(1, 4, 7)", "(1, 3, 7)"]),
    "width of hx": (lambda name: (x3, states_of(name, h3[..., :6])), ["hx", "(1, 4, 7)", "(1, 4, 6)"]),
    "layers of hx": (lambda name: (x3, states_of(name, h3.expand(2, 4, 7))), ["hx", "(1, 4, 7)", "(2, 4, 7)"]),
    "2-D hx": (lambda name: (x3, states_of(name, h2)), ["hx", "(1, 4, 7)", "(1, 7)"]),
    "3-D hx, unbatched": (lambda name: (x3[:, 0], states_of(name, h3)), ["hx", "(1, 7)", "(1, 4, 7)"]),
}


@classes
@pytest.mark.parametrize("what", TORCH_REFUSES)
def test_errors_of_torch(name, what):
    theirs, mine = pair(name)
    arguments, words = TORCH_REFUSES[what]
    with pytest.raises((RuntimeError, ValueError)) as expected:
        theirs(*arguments(name))
    with pytest.raises(expected.type) as error:
        mine(*arguments(name))
    message = str(error.value)
    assert message.startswith(f"{name}: ") and "\n" not in message
    assert all(word in message for word in words), message


@all_names
def test_other_errors(name):
    mine = make(ours, name)
    good = tuple(make_states(mine, 4, F32))
    hx = good if len(good) > 1 else good[0]
    packed = pack_padded_sequence(x3, [6, 3, 2, 1])

    def check(exception, words, call):
        with pytest.raises(exception) as error:
            call()
        message = str(error.value)
        assert message.startswith(f"{name}: "), message
        assert all(word in message for word in words), message

    check(TypeError, ["input", "Tensor or a PackedSequence", "list"], lambda: mine([x3]))
    check(TypeError, ["hx", "Tensor", "str"], lambda: mine(x3, "state"))
    check(TypeError, ["hx", "Tensor", "tuple of 5"], lambda: mine(x3, (h3,) * 5))
    if len(good) > 1:
        check(TypeError, ["hx", "(h, c", "Tensor"], lambda: mine(x3, h3))
        check(TypeError, ["hx[1] (c)", "float32", "float64"], lambda: mine(x3, (h3, h3.double(), *good[2:])))
        check(
            RuntimeError,
            ["hx[1] (c)", "(1, 4, 7)", "(1, 4, 8)"],
            lambda: mine(x3, (h3, good[1].new_zeros(1, 4, 8), *good[2:])),
        )
        mine(x3, list(hx))
    else:
        check(TypeError, ["hx", "float32", "float64"], lambda: mine(x3, h3.double()))
    wrong = (h3[:, :3],) * len(good)
    check(RuntimeError, ["hx", "(1, 4, 7)", "(1, 3, 7)"], lambda: mine(packed, wrong if len(good) > 1 else wrong[0]))
    check(RuntimeError, ["2 dimensions"], lambda: mine(PackedSequence(packed.data[:, None], packed.batch_sizes)))
    check(
        RuntimeError, ["input_size = 5", "got 4"], lambda: mine(PackedSequence(packed.data[:, :4], packed.batch_sizes))
    )
    check(ValueError, ["float32", "float64"], lambda: mine(PackedSequence(packed.data.double(), packed.batch_sizes)))
    check(fastiter.BackendError, ["input", "CPU", "meta"], lambda: mine(x3.to("meta"), hx))
    check(
        fastiter.BackendError,
        ["hx", "cpu", "meta"],
        lambda: mine(x3, tuple(s.to("meta") for s in good) if len(good) > 1 else h3.to("meta")),
    )
    check(fastiter.BackendError, ["parameters", "CPU", "meta"], lambda: make(ours, name, device="meta")(x3))
    for key, weight in dict(mine.named_parameters()).items():
        for value, words in ((weight[:-1], [str(tuple(weight[:-1].shape))]), (weight.double(), ["float64", "float32"])):
            broken = make(ours, name)
            setattr(broken, key, torch.nn.Parameter(value.detach()))
            check(ValueError, ["_l0 must have shape", *words], lambda m=broken: m(x3))
    check(TypeError, ["parameters", "float64 or bfloat16", "float16"], lambda: make(ours, name).half()(x3.half()))


@classes
@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((5, 0), {}),
        ((0, 7), {}),
        ((5.0, 7), {}),
        ((5, "7"), {}),
        ((5, 7, 0), {}),
        ((5, 7), {"bias": 1}),
        ((5, 7), {"batch_first": 0}),
        ((5, 7), {"dropout": 2.0}),
        ((5, 7), {"dropout": True}),
        ((5, 7), {"dtype": torch.int64}),
    ],
    ids=str,
)
def test_constructor_errors_of_torch(name, args, options):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as expected:
        getattr(torch.nn, name)(*args, **options)
    with pytest.raises(expected.type):
        getattr(ours, name)(*args, **options)


def test_constructor_options():
    with pytest.raises(ValueError, match="proj_size"):
        ours.LSTM(5, 7, proj_size=7)
    with pytest.raises(ValueError, match="nonlinearity"):
        ours.RNN(5, 7, nonlinearity="sin")


@pytest.mark.parametrize("name", ["GRU", "RNN", "sLSTM"])
@pytest.mark.parametrize("size", [0, 1, 3, 7, -1, "3"])
def test_projections_are_an_option_of_lstm_alone(name, size):
    """The class of exception is torch.nn's, which users catch."""
    theirs = getattr(torch.nn, name, torch.nn.GRU)
    with pytest.raises(ValueError, match="proj_size"):
        theirs(5, 7, proj_size=size)
    message = f"^{name}: proj_size is an option of LSTM, and must not be given here, got {size!r}$"
    with pytest.raises(ValueError, match=message):
        getattr(ours, name)(5, 7, proj_size=size)
    with pytest.raises(TypeError, match=rf"^{name}: keywords must be among .*, got 'projection'"):
        getattr(ours, name)(5, 7, projection=size)
    assert ours.RNN(5, 7, 2, "relu", False, True, 0.5, True).batch_first
    assert ours.LSTM(5, 7, 2, False, True, 0.5, True, 3).proj_size == 3
    for name, heads in itertools.product(("LSTM", "GRU", "RNN", "sLSTM"), (0, -1, 2, 8)):
        with pytest.raises(ValueError, match=f"{name}: num_heads must divide hidden_size = 7, got {heads}"):
            getattr(ours, name)(5, 7, num_heads=heads)
    for heads in (1.0, True, None):
        with pytest.raises(TypeError, match="num_heads must be an int"):
            ours.LSTM(5, 7, num_heads=heads)
    with pytest.raises(ValueError, match="LSTM: num_heads must be 1 with proj_size = 3, got 7"):
        ours.LSTM(5, 7, proj_size=3, num_heads=7)


@pytest.mark.parametrize("kind", ["lstm", "lstm_proj", "gru", "tanh", "sLSTM"])
def test_weights_on_two_devices(kind):
    """The kernels take addresses: for a parameter without memory they would read arbitrary memory."""
    states = make(ours, kind, num_layers=2).state_dict()
    for missing in states:
        with torch.device("meta"):
            module = make(ours, kind, num_layers=2)
        module.load_state_dict({k: v for k, v in states.items() if k != missing}, strict=False, assign=True)
        first, *_ = states
        name, expected, got = (
            (next(k for k in states if k != first), "meta", "cpu") if missing == first else (missing, "cpu", "meta")
        )
        message = f"^{type(module).__name__}: {name} must be on {expected} like {first}, got {got}$"
        with pytest.raises(fastiter.BackendError, match=message):
            module(x3)
        with pytest.raises(fastiter.BackendError, match=message), torch.no_grad():
            module.step(x3[0])


@all_names
def test_dtypes_of_later_layers(name):
    module = make(ours, name, num_layers=2)
    for key in [key for key, _ in module.named_parameters() if "_l1" in key]:
        setattr(module, key, torch.nn.Parameter(getattr(module, key).double()))
    with pytest.raises(
        ValueError, match=rf"^{name}: weight_ih_l1 must have shape \(\d+, 7\), float32, got .*, float64$"
    ):
        module(x3)


PACKERS = {name: lambda name=name: make(ours, name) for name in ("LSTM", "GRU", "RNN", "sLSTM")}
PACKERS |= {"sLSTMBlock": lambda: ours.sLSTMBlock(I, num_heads=1), "LinearRNN": lambda: ours.LinearRNN(I, H)}
packers = pytest.mark.parametrize("name", PACKERS)


@packers
@pytest.mark.parametrize(
    ("sizes", "error", "words"),
    [
        (
            torch.tensor([2.0, 2, 2, 1, 1]),
            TypeError,
            "batch_sizes must be an int64 tensor on the CPU, got torch.float32",
        ),
        (
            torch.tensor([2, 2, 2, 1, 1], dtype=torch.int32),
            TypeError,
            "batch_sizes must be an int64 .*, got torch.int32",
        ),
        (torch.tensor([[2], [2], [2], [1], [1]]), ValueError, r"batch_sizes must have shape \(T,\), got \(5, 1\)$"),
        (torch.tensor(8), ValueError, r"batch_sizes must have shape \(T,\), got \(\)$"),
        (torch.zeros(0, dtype=torch.int64), RuntimeError, r"a PackedSequence must have batch_sizes .*, got \[\]$"),
        (torch.tensor([2, 2, 2, 2, 1]), RuntimeError, "a PackedSequence must have batch_sizes .* sum 8 of its lines"),
        (
            torch.tensor([2, 2, 1, 2, 1]),
            RuntimeError,
            "a PackedSequence must have batch_sizes that decrease to 1 or more",
        ),
        (torch.tensor([3, 3, 2, 0]), RuntimeError, "a PackedSequence must have batch_sizes that decrease to 1 or more"),
    ],
    ids=str,
)
def test_batch_sizes(name, sizes, error, words):
    """The kernels compute addresses from batch_sizes."""
    with pytest.raises(error, match=f"^{name}: {words}"):
        PACKERS[name]()(PackedSequence(x3.flatten(0, 1)[:8], sizes))


@packers
@pytest.mark.parametrize("which", ["sorted_indices", "unsorted_indices"])
def test_indices_of_a_packed_sequence(name, which):
    module, data, sizes = PACKERS[name](), x3.flatten(0, 1)[:8], torch.tensor([2, 2, 2, 1, 1])
    _, last = module(PackedSequence(data, sizes))
    where = f"{which} of a PackedSequence must"
    for order, error, words in (
        (torch.tensor([0]), ValueError, rf"{where} have shape \(B,\) = \(2,\), got \(1,\)"),
        (torch.tensor([0, 1, 0]), ValueError, rf"{where} have shape \(B,\) = \(2,\), got \(3,\)"),
        (torch.tensor([[0], [1]]), ValueError, rf"{where} have shape \(B,\) = \(2,\), got \(2, 1\)"),
        (torch.tensor([0.0, 1.0]), TypeError, f"{where} be int64 or int32, got float32"),
        (torch.tensor([0, 1], device="meta"), fastiter.BackendError, f"{where} be on cpu like its data, got meta"),
    ):
        given = {"sorted_indices": torch.tensor([0, 1]), "unsorted_indices": torch.tensor([0, 1]), which: order}
        packed = PackedSequence(data, sizes, **given)
        for hx in (None, last):
            with pytest.raises(error, match=f"^{name}: {words}$"):
                module(packed, hx)
    for order in ([0, 2], [0, -1]):
        with pytest.raises((IndexError, RuntimeError)):
            module(PackedSequence(data, sizes, torch.tensor(order), torch.tensor([0, 1])), last)


@all_names
def test_keyword_only_arguments(name):
    words = (
        "forward takes input and hx by position, reset, lengths and cu_seqlens by name, got {} arguments by position"
    )
    for more in ((None,), (None, None, None), (None, [6, 6, 6, 6], None), (None, None, None, None)):
        with pytest.raises(TypeError, match=f"^{name}: {words.format(2 + len(more))}$"):
            make(ours, name)(x3, None, *more)


@all_names
def test_sparse_tensors(name):
    module = make(ours, name)
    _, last = module(x3)
    sparse = tuple(s.to_sparse() for s in last) if isinstance(last, tuple) else last.to_sparse()
    what = "hx" if isinstance(sparse, torch.Tensor) else r"hx\[0\] \(h\)"
    got = "must be a dense tensor, got layout torch.sparse_coo"
    for given, label in (((x3.to_sparse(),), "input"), ((x3, sparse), what)):
        with pytest.raises(TypeError, match=f"^{name}: {label} {got}$"):
            module(*given)
        with torch.autocast("cpu"), pytest.raises(TypeError, match=f"^{name}: {label} {got}$"):
            module(*given)
    for key, weight in list(module.named_parameters()):
        broken = make(ours, name)
        setattr(broken, key, torch.nn.Parameter(weight.detach().to_sparse()))
        with pytest.raises(TypeError, match=f"^{name}: {key} {got}$"):
            broken(x3)
    with pytest.raises(TypeError, match=f"^sLSTMBlock: input {got}$"):
        ours.sLSTMBlock(I, num_heads=1)(x3.to_sparse())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": 2**70}, f"checkpoint must be at most {2**63 - 1} steps, got a larger number"),
        ({"clip_grad": 10**400}, "clip_grad must be a positive number that a float can hold, got a larger one"),
    ],
    ids=["checkpoint", "clip_grad"],
)
def test_options_that_are_too_large(options, message):
    with pytest.raises(ValueError, match=f"^GRU: {message}$"):
        ours.GRU(5, 7, **options)
