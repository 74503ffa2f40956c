"""quantize_model, summary, quantize_optimizer: whole models."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fastiter.torch import nn as ours  # noqa: E402
from fastiter.torch import quant  # noqa: E402

PLAN = ours.QuantPlan(weight=ours.FixedQuantizer(4), input=ours.FixedQuantizer(8), output="fixed<8,4,RND,SAT>")


def numbers(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> Any:
    torch.manual_seed(0)
    parts = {
        "first": torch.nn.Conv2d(2, 4, 3),
        "norm": torch.nn.BatchNorm2d(4),
        "act": torch.nn.ReLU(),
        "flat": torch.nn.Flatten(),
        "head": torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)),
    }
    model = torch.nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model


def kinds(model: Any) -> dict[str, str]:
    return {name: type(m).__name__ for name, m in model.named_modules() if name and "quantizer" not in name}


def test_every_layer_becomes_one_that_rounds() -> None:
    model = network()
    rounded = ours.quantize_model(model, PLAN)
    assert kinds(rounded) == {
        "first": "QuantConv2d",
        "norm": "QuantBatchNorm2d",
        "act": "ReLU",
        "flat": "Flatten",
        "head": "Sequential",
        "head.0": "QuantLinear",
        "head.1": "QuantBatchNorm1d",
        "head.2": "QuantLinear",
    }
    assert kinds(model)["first"] == "Conv2d"
    x = numbers(3, 2, 6, 6)
    y = rounded(x)
    assert torch.equal(y * 16, (y * 16).round())
    weight = quant.round_fixed(model.first.weight, 4, rounded.first.weight_quantizer.point)
    torch.testing.assert_close(
        rounded.first(x),
        quant.quantize(
            torch.nn.functional.conv2d(rounded.first.input_quantizer(x), weight, model.first.bias), "fixed<8,4,RND,SAT>"
        ),
    )


@pytest.mark.parametrize("fmt", ["int8", "INT4", torch.float8_e4m3fn, "mxfp4", "fixed<8,2,RND,SAT>"])
def test_a_format_is_a_plan_for_the_weights(fmt: Any) -> None:
    model, x = network().eval(), numbers(3, 2, 6, 6)
    rounded = ours.quantize_model(model, fmt)
    by_name = ours.quantize_model(model, {"head.*": None, "*": fmt})
    assert kinds(by_name)["head.0"] == "Linear" and kinds(by_name)["first"] == "QuantConv2d"
    scales = {} if fmt in ("mxfp4", "fixed<8,2,RND,SAT>") else {"scale": "amax"}
    weight = quant.quantize(model.first.weight, fmt, **scales)
    given = torch.nn.functional.conv2d(x, weight, model.first.bias)
    torch.testing.assert_close(rounded.first(x), given)
    assert torch.equal(by_name.first(x), rounded.first(x))
    assert rounded.first.input_quantizer is rounded.first.output_quantizer is rounded.first.bias_quantizer is None


def test_objects_are_copied_and_written_in_a_line() -> None:
    torch.manual_seed(0)
    gradient = ours.GradientQuantizer("fp8")
    plan = ours.QuantPlan(weight="int8", input=torch.float16, gradient=gradient, accumulator="float32")
    expected = "QuantPlan(weight='int8', input='fp16', gradient=GradientQuantizer(e4m3fn), accumulator='fp32')"
    assert repr(plan) == expected and repr(ours.QuantPlan()) == "QuantPlan()"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))])
    rounding = ours.quantize_optimizer(optimizer, {"*": "e5m2<SR>"}, scale="amax", rng=3)
    assert repr(rounding) == "OptimizerQuantizer({'*': 'e5m2<STOCHASTIC>'}, scale='amax', seed=3, count=0)"
    quantizers = [ours.FixedQuantizer(4), ours.LSQQuantizer(4, axis=0), ours.PACTQuantizer(3), gradient]
    quantizers += [ours.FormatQuantizer("int8<SR>", scale="amax", rng=torch.Generator().manual_seed(1)), plan.gradient]
    found = ours.quantize_model(network(), "int8")
    table = ours.summary(found)
    calibration = quant.calibrate(torch.ones(3), "int8")
    for one in (plan, *quantizers, calibration, quant.encode(torch.ones(4), "int8", scale="amax"), table, table[0]):
        for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
            assert repr(other) == repr(one)
        assert "\n" not in repr(one) or one is table
    assert repr(table) == str(table) and dir(quant) == sorted(quant.__all__)


def test_without_formats_a_model_is_unchanged() -> None:
    model = network().eval()
    rounded = ours.quantize_model(model, ours.QuantPlan())
    x = numbers(3, 2, 6, 6)
    torch.testing.assert_close(rounded(x), model(x))
    assert rounded.state_dict().keys() == model.state_dict().keys()


def test_the_first_pattern_that_matches_counts() -> None:
    other = ours.QuantPlan(weight="int4")
    model = ours.quantize_model(network(), {"head.2": None, "head.*": other, "first": PLAN})
    assert kinds(model) == {
        **kinds(network()),
        "first": "QuantConv2d",
        "head.0": "QuantLinear",
        "head.1": "QuantBatchNorm1d",
    }
    assert model.head[0].plan is other and model.first.plan is PLAN
    again = ours.quantize_model(model, {"first": other})
    assert again.first.plan is other and again.first.input_quantizer is None
    assert model.first.plan is PLAN


def test_hooks_and_attributes_of_a_layer_are_kept() -> None:
    model = network().eval()
    for parameter in model.head[0].parameters():
        parameter.requires_grad_(False)
    seen: list[str] = []
    model.first.register_forward_hook(lambda *_: seen.append("hook"))
    model.first.register_forward_pre_hook(lambda *_: seen.append("pre-hook"))
    model.first.remark = "mine"
    before = dict(model.named_parameters())
    same = ours.quantize_model(model, PLAN, inplace=True)
    assert same is model and not any(m.training for m in model.modules())
    after = {name: p for name, p in model.named_parameters() if "quantizer" not in name}
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert not model.head[0].weight.requires_grad
    model(numbers(3, 2, 6, 6))
    assert seen == ["pre-hook", "hook"] and model.first.remark == "mine"


def test_a_model_that_is_a_layer() -> None:
    layer = torch.nn.Linear(3, 2)
    assert type(ours.quantize_model(layer, PLAN)) is ours.QuantLinear
    assert type(ours.quantize_model(layer, {"": PLAN})) is ours.QuantLinear
    assert type(layer) is torch.nn.Linear


def test_shared_layers_stay_shared() -> None:
    layer = torch.nn.Linear(4, 4)
    model = torch.nn.Sequential(layer, torch.nn.ReLU(), layer)
    rounded = ours.quantize_model(model, PLAN)
    assert rounded[0] is rounded[2] and type(rounded[0]) is ours.QuantLinear
    with pytest.raises(ValueError, match=r"plan must be one for both names of a module, got two for '0' and '2'"):
        ours.quantize_model(model, {"0": PLAN, "2": None})


def test_shared_weights_stay_shared() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    rounded = ours.quantize_model(model, PLAN)
    assert rounded[0].weight is rounded[1].weight
    assert rounded[0].weight_quantizer is not rounded[1].weight_quantizer


def test_layers_with_parts_that_would_be_lost_are_refused() -> None:
    class Mine(torch.nn.Linear):
        pass

    with pytest.raises(ValueError, match=r"'0' must be a layer of torch.nn or fastiter itself.*got .*Mine"):
        ours.quantize_model(torch.nn.Sequential(Mine(2, 2)), PLAN)
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'0' must be without parametrizations, which would be lost"):
        ours.quantize_model(torch.nn.Sequential(normed), PLAN)
    patched = torch.nn.Linear(2, 2)
    patched.forward = lambda x: x
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), patched)
    with pytest.raises(ValueError, match="'1' must be a layer whose forward is its class's own"):
        ours.quantize_model(model, PLAN, inplace=True)
    assert type(model[0]) is torch.nn.Linear  # the model is not partially changed


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_transformer_layers_call_rounding_layers_in_eval_mode_too() -> None:
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), 1
    ).eval()
    x = numbers(2, 5, 8)
    rounded = ours.quantize_model(model, {"*linear?": ours.QuantPlan(weight="int4", output="fixed<4,3>")})
    assert kinds(rounded)["layers.0.self_attn.out_proj"] == "NonDynamicallyQuantizableLinear"
    with torch.no_grad():
        fast = rounded(x)
    with torch.enable_grad():
        slow = rounded(x.clone().requires_grad_())
    torch.testing.assert_close(fast, slow.detach())
    with torch.no_grad():
        assert not torch.allclose(fast, model(x), atol=1e-2)
    with pytest.raises(ValueError, match=r"must match a layer that can round, got .*NonDynamicallyQuantizableLinear"):
        ours.quantize_model(model, {"*.out_proj": PLAN})


def test_models_train() -> None:
    model = ours.quantize_model(
        network(),
        ours.QuantPlan(
            weight=ours.FixedQuantizer(4, axis=0),
            bias="fixed<8,3,RND,SAT>",
            input=ours.FixedQuantizer(6),
            gradient="e5m2<STOCHASTIC>",
            optimizer="bf16<STOCHASTIC>",
        ),
    )
    x, target = numbers(60, 2, 6, 6), torch.arange(60) % 3
    x[:, 0] += target.view(60, 1, 1)
    model(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rounding = ours.quantize_optimizer(optimizer, model.first.plan, rng=3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert rounding.count == 25 * 2 * sum(p.dim() > 0 for p in model.parameters())
    for state in optimizer.state.values():
        if state["exp_avg"].dim():
            assert torch.equal(state["exp_avg"], state["exp_avg"].bfloat16().float())


# --- summary ----------------------------------------------------------------------------------------------------------


def test_summary() -> None:
    plan = ours.QuantPlan(weight=ours.FixedQuantizer(4), input=ours.FixedQuantizer(8), gradient="e5m2")
    hot = ours.QuantPlan(weight=ours.FixedQuantizer(8, terms=2), output="int6")
    model = ours.quantize_model(network(), {"first": plan, "head.0": hot, "head.2": plan})
    assert ours.summary(model)[0] == ("first", "weight", "fixed<4,4,RND_CONV,SAT>", 4, *[None] * 5)
    x = numbers(3, 2, 6, 6)
    model(x)
    state = copy.deepcopy(model.state_dict())
    rows = {(row.name, row.part): row for row in ours.summary(model, x)}
    assert [*rows] == [
        *(("first", "weight"), ("first", "input"), ("first", "gradient")),
        *(("head.0", "weight"), ("head.0", "output")),
        *(("head.2", "weight"), ("head.2", "input"), ("head.2", "gradient")),
    ]
    first, given = rows["first", "weight"], rows["first", "input"]
    assert first.operations == 3 * 4 * 4 * 4 * 2 * 9
    assert first.bit_operations == first.operations * 4 * 8
    assert rows["head.0", "weight"].bit_operations == 3 * 8 * 64 * 2 * 32  # two powers of two, an input of 32 bits
    assert (given.lowest, given.highest) == (x.min().item(), x.max().item())
    error = model.first.input_quantizer(x) - x
    assert given.sqnr == pytest.approx(10 * torch.log10(x.square().sum() / error.square().sum()).item(), rel=1e-4)
    assert str(model.first.weight_quantizer.formats[0]) == first.format
    assert model.training and all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )


def test_the_table_of_a_summary() -> None:
    model = torch.nn.Sequential(
        ours.QuantLinear(8, 4, plan=ours.QuantPlan(weight=ours.FixedQuantizer(4, axis=0), input="int8")),
        ours.FormatQuantizer("int4"),
    )
    lines = str(ours.summary(model, numbers(2, 8))).splitlines()
    assert lines[0].split()[:4] == ["layer", "part", "format", "bits"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["0", "weight"],
        ["0", "input"],
        ["1", "alone"],
        ["bit", "operations"],
    ]
    assert lines[-1] == "bit operations in all: 2,048"
    assert len({line.rstrip().count("  ") > 0 for line in lines[:-1]}) == 1


# --- optimizers -------------------------------------------------------------------------------------------------------


def steps(plan: Any, count: int = 3, **how: Any) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(numbers(4, 6))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    rounding = ours.quantize_optimizer(optimizer, plan, **how)
    for k in range(count):
        optimizer.zero_grad()
        (weight * numbers(4, 6, seed=k)).sum().backward()
        optimizer.step()
    return optimizer.state[weight], rounding, optimizer


def test_states_are_rounded_by_name() -> None:
    state, _, _ = steps({"exp_avg": "e4m3fn", "*": "int8"}, scale="amax")
    exact, _, _ = steps({})
    assert torch.equal(quant.quantize(state["exp_avg"], "e4m3fn", scale="amax"), state["exp_avg"])
    assert state["step"] == 3 and not torch.equal(state["exp_avg_sq"], exact["exp_avg_sq"])
    assert torch.equal(steps({"exp_avg": "bf16"})[0]["exp_avg_sq"], exact["exp_avg_sq"])


def test_names_that_no_state_has_are_refused_once_there_are_states() -> None:
    wrong = "^quantize_optimizer: plan must have names of states, 'step', 'exp_avg', 'exp_avg_sq', got 'nope'$"
    with pytest.raises(ValueError, match=wrong):
        steps({"exp_avg": "bf16", "nope": "bf16"})
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.Adam([used, unused])
    ours.quantize_optimizer(optimizer, {"nope": "bf16"})
    used.sum().backward()
    optimizer.step()  # the other parameter's states do not exist yet
    unused.sum().backward()
    with pytest.raises(ValueError, match=wrong):
        optimizer.step()


def test_random_states_are_reproducible_and_can_be_resumed() -> None:
    (one, rounding, _), (two, _, _) = steps("e5m2<STOCHASTIC>", rng=4), steps("e5m2<STOCHASTIC>", rng=4)
    assert torch.equal(one["exp_avg"], two["exp_avg"])
    assert not torch.equal(one["exp_avg"], steps("e5m2<STOCHASTIC>", rng=5)[0]["exp_avg"])
    assert rounding.state_dict() == {"seed": 4, "count": 6}
    _, other, optimizer = steps("e5m2<STOCHASTIC>", rng=1, count=0)
    other.load_state_dict(rounding.state_dict())
    assert (other.seed, other.count) == (4, 6)
    other.remove()
    weight = optimizer.param_groups[0]["params"][0]
    weight.sum().backward()
    optimizer.step()
    assert other.count == 6
