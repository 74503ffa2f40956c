"""replace on classes derived from torch's: super() finds the kernel, all else unchanged; reasons for refusal."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from abc import ABC, abstractmethod

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402

from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import replace, restore  # noqa: E402
from tests.rnn.nn.cases_nn import F64, KINDS, H, I, assert_same, make_input, no_onednn_projection, one_thread, run  # noqa: E402, F401
from tests.support.reports import report_of, restored_names  # noqa: E402

pytestmark = no_onednn_projection


class Named(nn.LSTM):
    """A subclass with only a name and an attribute."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.extra = nn.Parameter(torch.ones(1))


class Scaled(nn.GRU):
    def forward(self, input, hx=None):
        output, last = super().forward(2 * input, hx)
        return output, last

    def extra_repr(self):
        return super().extra_repr() + ", scaled"


class ByHelper(nn.RNN):
    @functools.wraps(nn.RNN.forward)
    def forward(self, *arguments, **options):
        return self._run(*arguments, **options)

    def _run(self, *arguments, **options):
        return (lambda: super(ByHelper, self).forward(*arguments, **options))()


class ZeroLengths(ABC, nn.RNNBase):
    """A class as in pytorch-forecasting: a mixin beside torch's class, whose forward packs and calls super()."""

    @abstractmethod
    def first(self, x): ...

    def forward(self, x, hx=None, lengths=None, enforce_sorted=True):
        if isinstance(x, PackedSequence) or lengths is None:
            return super().forward(x, hx=hx)
        lengths = lengths.clamp(min=1)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted, batch_first=self.batch_first)
        output, last = super().forward(packed, hx=hx)
        return pad_packed_sequence(output, batch_first=self.batch_first)[0], last


class Forecasting(ZeroLengths, nn.LSTM):
    def first(self, x):
        return x.new_zeros(1)


class Derived(Forecasting):
    """Class derived from a derived class."""


class Slots(nn.GRU):
    def __reduce__(self):
        return make_slots, (self.input_size, self.hidden_size), self.__getstate__()


def make_slots(*sizes):
    return Slots(*sizes)


CLASSES = [(Named, {}), (Named, {"proj_size": 3}), (Scaled, {}), (ByHelper, {"nonlinearity": "relu"})]
CLASSES += [(Forecasting, {}), (Derived, {"num_layers": 2}), (Slots, {})]


def make(of, **options):
    torch.manual_seed(3)
    return of(I, H, **options).double()


def called(monkeypatch):
    """Count the calls of torch's own kernels."""
    seen = []
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        own = getattr(torch._VF, name)
        monkeypatch.setattr(torch._VF, name, lambda *a, own=own, name=name: (seen.append(name), own(*a))[1])
    return seen


@pytest.mark.parametrize(("of", "options"), CLASSES)
def test_the_kernel_is_swapped_and_the_class_stays(of, options, monkeypatch):
    module, theirs = make(of, **options), called(monkeypatch)
    expected, state = run(module, make_input("time")), list(module.state_dict())
    parameters, text = list(module.parameters()), repr(module)
    assert len(theirs) == 1
    report = report_of(replace, module)
    assert list(report.replaced) == [""] and not report.left
    assert report.replaced[""].startswith(f"{of.__name__}(")
    assert isinstance(module, of) and isinstance(module, ours.__dict__[of.__mro__[-4].__name__])
    assert (type(module).__name__, type(module).__module__) == (of.__name__, __name__)
    assert repr(module) == text and list(module.state_dict()) == state
    assert all(p is q for p, q in zip(module.parameters(), parameters, strict=True))
    assert_same(run(module, make_input("time")), expected)
    assert len(theirs) == 1, "torch's kernel ran"
    assert not report_of(replace, module).replaced and not report_of(replace, module).left
    assert restored_names(module) == [""] and type(module) is of
    assert_same(run(module, make_input("time")), expected, factor=0)
    assert len(theirs) == 2


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(("of", "options"), CLASSES)
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, copy.copy, saved, *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in (0, 1, 2, 5))],
)
def test_copies_and_pickles(of, options, duplicate):
    model = nn.Sequential(make(of, **options))
    x = make_input("time")
    replace(model)
    expected = model[0](x)[0]
    other = duplicate(model)
    assert type(other[0]) is type(model[0])
    assert other[0](x)[0].equal(expected)
    other[0].load_state_dict(model[0].state_dict())
    assert restored_names(other) == ["0"] and type(other[0]) is of


def test_parametrized_ones():
    module = make(Scaled)
    parametrizations.weight_norm(module, "weight_hh_l0")
    expected = run(module, make_input("time"))
    assert list(report_of(replace, module).replaced) == [""]
    assert isinstance(module, Scaled) and isinstance(module, ours.GRU)
    assert_same(run(module, make_input("time")), expected)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert restored_names(module) == [""] and type(module) is Scaled


def test_their_own_arguments():
    module = make(Forecasting, batch_first=True)
    x, lengths = make_input("batch"), torch.tensor([6, 0, 3, 6])
    expected = module(x, lengths=lengths, enforce_sorted=False)
    replace(module)
    torch.testing.assert_close(module(x, lengths=lengths, enforce_sorted=False), expected)


def test_attributes_of_our_classes_are_available():
    module = make(Named)
    replace(module)
    module.clip_state = 0.01
    assert module(make_input("time"))[0].abs().max() <= 0.01
    module.clip_state = None
    stream = ours.StreamingRNN(module, 4)
    torch.testing.assert_close(stream(make_input("time")[0]), module(make_input("time"))[0][0])


def test_every_class_is_created_once():
    a, b = make(Scaled), make(Scaled)
    replace(nn.ModuleList([a, b]))
    assert type(a) is type(b)


def test_others_of_the_same_class():
    """Building and isinstance-testing further layers of a replaced layer's class keep working."""
    module = make(Scaled)
    replace(module)
    other = type(module)(I, H)
    assert isinstance(other, Scaled) and isinstance(other, ours.GRU)
    assert restored_names(other) == [] and restored_names(other, built=True) == [""] and type(other) is Scaled


class NoSuper(nn.LSTM):
    def forward(self, x):
        return nn.LSTM.forward(self, x)


class OtherShapes(nn.GRU):
    def check_hidden_size(self, hx, expected, msg=""):
        pass


class Permuted(nn.LSTM):
    def permute_hidden(self, hx, permutation):
        return hx

    def forward(self, x, hx=None):
        return super().forward(x, hx)


class Attention(nn.RNN):
    num_heads = 4


class Clipped(nn.RNN):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.clip_grad = 1.0


class Base(nn.RNNBase):
    def __init__(self):
        super().__init__("LSTM", 2, 2)

    def forward(self, x):
        return x


class Closed(nn.GRU):
    def __init_subclass__(cls, **options):
        raise RuntimeError("it is final")


def test_layers_left_unchanged_and_the_reasons():
    sizes = (2, 2)
    of = [NoSuper(*sizes), OtherShapes(*sizes), Permuted(*sizes), Attention(*sizes), Clipped(*sizes), Base()]
    half, patched = Named(*sizes, dtype=torch.float16), Named(*sizes)
    patched.forward = lambda x: x
    model = nn.ModuleList([*of, Closed(*sizes), half, patched, type("Own", (ours.GRU,), {})(*sizes)])
    classes = [type(module) for module in model]
    report = report_of(replace, model)
    assert not report.replaced and [type(module) for module in model] == classes
    its = f"its class, {__name__}"
    assert report.left == {
        "0": f"the forward of {its}.NoSuper, does not call super().forward",
        "1": f"{its}.OtherShapes, has a check_hidden_size of its own, which torch's forward calls",
        "2": f"{its}.Permuted, has a permute_hidden of its own, which torch's forward calls",
        "3": f"{its}.Attention, has a num_heads, which is an option of fastiter's",
        "4": f"{its}.Clipped, has a clip_grad, which is an option of fastiter's",
        "5": f"it is of a class of its own, {__name__}.Base",
        "6": f"no class can be derived from {__name__}.Closed: it is final",
        "7": "its weight_ih_l0 is float16 on cpu",
        "8": "its forward was replaced",
    }


def test_a_class_set_by_hand_or_by_a_library():
    model = nn.Sequential(make(Named), make(Scaled))
    replace(model)
    model[0].__class__ = Named
    model[1].__class__ = sharded = type("FSDPScaled", (nn.Identity, type(model[1])), {})
    restored = report_of(restore, model)
    assert list(restored.restored) == [] and list(restored.left) == ["0", "1"]
    assert type(model[1]) is sharded
    model[1].__class__ = sharded.__bases__[1]
    restored = report_of(restore, model)
    assert list(restored.restored) == ["1"] and not restored.left and type(model[1]) is Scaled
