"""Every instruction set of this build that runs here: right numbers, no access out of bounds; FASTITER_ISA selects."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys

import pytest

import fastiter
from fastiter import _core
from tests.rnn.calls import assert_runs, python
from tests.support.isas import AVAILABLE, LAST_OF_A_KIND, ONE_ALONE

every_isa = pytest.mark.parametrize("isa", AVAILABLE)

KNOWN = ["baseline", *(["v3", "v4", "v4_bf16"] if platform.machine() in ("x86_64", "AMD64") else [])]

CONFIG = r"""fastiter      \S+
numpy         \S+
instructions  (?P<chosen>\w+) \(built: (?P<built>[\w ]+); this machine runs: (?P<available>[\w ]+)\)
threads       (?P<threads>\d+), pool: .+
(backend       \w+: .+\n)+"""


def config(text: str) -> dict[str, str]:
    match = re.fullmatch(CONFIG, text)
    assert match, text
    return match.groupdict()


def test_show_config_lists_the_instruction_sets(capsys: pytest.CaptureFixture[str]) -> None:
    fastiter.set_num_threads(3)
    fastiter.show_config()
    shown = config(capsys.readouterr().out)
    assert shown["available"].split() == AVAILABLE
    assert set(AVAILABLE) <= set(shown["built"].split())
    assert shown["chosen"] == _core.isa_chosen()
    assert shown["chosen"] in AVAILABLE
    assert shown["threads"] == "3"


@every_isa
def test_the_environment_chooses(isa: str) -> None:
    shown = config(assert_runs("-c", "import fastiter; fastiter.show_config()", FASTITER_ISA=isa))
    assert shown["chosen"] == isa
    assert shown["available"].split() == AVAILABLE


def test_an_empty_choice_is_the_best() -> None:
    script = "import fastiter; print(fastiter._core.isa_chosen())"
    assert assert_runs("-c", script, FASTITER_ISA="").split() == [AVAILABLE[-1]]


@pytest.mark.parametrize("name", ["nonsense", "V4", "v", "baseline v3", " "])
def test_a_wrong_choice_is_an_import_error_that_names_the_choices(name: str) -> None:
    done = python("-c", "import fastiter", FASTITER_ISA=name)
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: fastiter: FASTITER_ISA must be one of ")
    assert all(re.search(rf"\b{isa}\b", message) for isa in AVAILABLE)
    assert f"'{name}'" in message
    assert message.endswith(": there is no such instruction set")


def test_an_instruction_set_that_is_not_built_names_the_builds_that_have_it() -> None:
    missing = set(KNOWN) - set(_core.isa_built().split())
    if not missing:
        pytest.skip("this build has every instruction set")
    for name in missing:
        done = python("-c", "import fastiter", FASTITER_ISA=name)
        message = f"ImportError: fastiter: FASTITER_ISA must be one of '{' '.join(AVAILABLE)}', got '{name}': "
        message += "this build does not have it, but wheels and builds with FASTITER_LEVELS=all do"
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1] == message


#: Blocks whose lines end inside of a vector, and of one of the two dtypes each
NARROW = ("float32-2", "float32-4", "complex64-3")
NUMBERS = {
    "rnn": [
        "tests/core/test_vmath.py",
        "tests/rnn/test_arrays.py::test_sizes",
        "tests/rnn/test_arrays.py::test_saturated_gates",
        "tests/rnn/test_torch_options.py::test_the_loop_of_torch",
        "tests/rnn/nn/test_torch_nn_stream.py::test_sizes",
    ],
    "ssm": [
        *(f"tests/ssm/test_arrays.py::test_{name}" for name in ("sizes", "storage_types", "extreme_values", "a_step")),
        "tests/ssm/tensors/test_torch_selective.py::test_gradients_of_the_specification",
        *(f"tests/ssm/test_{name}.py::test_sizes" for name in ("attention", "mlstm", "low_rank")),
        *(
            f"tests/ssm/tensors/test_torch_{name}.py::test_gradients_of_the_loop"
            for name in ("attention", "mlstm", "low_rank")
        ),
        *(f"tests/ssm/test_causal_conv.py::test_{name}" for name in ("sizes", "numbered_sequences", "steps")),
        "tests/ssm/tensors/test_torch_causal_conv.py::test_gradients_of_the_specification",
        "tests/ssm/tensors/test_torch_mixer_step.py::test_sizes",
    ],
    # The gradients of the scans have the same bits on every instruction set: tests/scan/test_torch_gradients.py.
    "scan, delta": [
        "tests/scan/test_arrays.py::test_results_equal_the_specification",
        *(
            f"tests/scan/test_sizes.py::test_{name}"
            for name in ("every_width", "every_block", "results_larger_than_every_cache")
        ),
        *(
            f"tests/scan/test_sizes.py::test_blocks_larger_than_every_cache_at_any_alignment[{which}]"
            for which in NARROW
        ),
        "tests/delta/test_arrays.py::test_sizes",
        "tests/delta/test_torch_functional.py::test_gradients",
    ],
    "decode": [
        *(
            f"tests/decode/program/test_packed.py::test_{name}"
            for name in ("products_of_every_remainder", "every_code_and_scale_has_its_number", "groups_of_any_size")
        ),
    ],
    "newton, relax": [
        "tests/newton/test_arrays.py::test_sizes",
        "tests/newton/test_arrays.py::test_saturated_gates",
        *(
            f"tests/newton/test_solver.py::test_{name}"
            for name in ("weights_times_100", "directions_and_lengths", "only_the_nonfinite_row_is_abandoned")
        ),
        *(
            f"tests/relax/test_arrays.py::test_{name}"
            for name in ("sweeps_in_every_order", "jacobi", "dense", "blocks", "kaczmarz", "huge_and_tiny_numbers")
        ),
        *(f"tests/relax/test_stencil.py::test_{name}" for name in ("sweeps", "solving")),
    ],
    # Roundings and products have the same bits on every instruction set: see WITH_NUMPY.
    "quant": [
        "tests/quant/formats/test_arrays.py::test_any_size",
        "tests/quant/formats/test_codes.py::test_every_code",
        "tests/quant/formats/test_random.py::test_random_words_are_those_of_philox",
        "tests/quant/torch/test_torch_gradients.py::test_sizes",
        *(f"tests/quant/products/test_matmul.py::test_{name}" for name in ("small_floats", "float32_in_every_tile")),
        "tests/quant/fixed/test_fixed_matmul.py::test_the_lowest_codes_of_all",
    ],
}


#: Run on every instruction set: v4, v4_bf16 and v4_amx differ here. NumPy has no bfloat16, so these need torch.
BFLOAT16 = [
    *(
        f"tests/rnn/test_bf16.py::test_{name}"
        for name in (
            "sizes",
            "one_step_is_rounded_once",
            "gradients",
            "the_gradient_of_r_is_rounded_once",
            "equal_bits",
            "checkpoints_change_no_bit",
            "nonfinite_values_spread_no_further_than_in_float32",
            "autocast",
            "stored_values_are_rounded_to_nearest_even",
        )
    ),
    *(
        f"tests/rnn/nn/test_torch_nn_one_call.py::test_bfloat16_{name}"
        for name in ("is_as_exact", "rows_are_independent", "continues_bit_for_bit")
    ),
]

# All other tests run the chosen instruction set.
OTHERS = [isa for isa in AVAILABLE if isa != _core.isa_chosen()]
COVERING = ("-q", "-W", "error", "-p", "no:cacheprovider", "-p", "tests.support.covering")
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.mark.parametrize("isa", OTHERS or [pytest.param("", marks=pytest.mark.skip(reason=ONE_ALONE))])
def test_numbers(isa: str) -> None:
    """All in one process, as torch, and the modules of the tests, take seconds to import.

    All parametrizations of these tests run on the chosen instruction set.
    """
    chosen = [name for names in NUMBERS.values() for name in names] if isa in LAST_OF_A_KIND else []
    tests = [name for name in (*chosen, *BFLOAT16) if HAS_TORCH or (name in chosen and "/test_torch" not in name)]
    if not tests:
        pytest.skip("only the products of bfloat16 differ, which need torch")
    # Plugins of other packages take a second to import.
    environment = {"FASTITER_ISA": isa, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    assert_runs("-m", "pytest", *COVERING, *tests, timeout=3000, **environment)


#: Runs modules, each with the arguments after its name, in one process: most import torch, which takes seconds.
GUARDED = """
import runpy, sys
for text in sys.argv[1:]:
    name, *sys.argv[1:] = text.split()
    print(name)
    sys.stdout.flush()
    runpy.run_module(name, run_name="__main__", alter_sys=True)
"""
SCANS = ("delta.guarded", "scan.guarded", "ssm.guarded", "ssm.guarded_attention", "ssm.guarded_conv")
WITH_NUMPY = ["tests.support.guarded quant", *(f"tests.{name} numpy" for name in ("support.guarded", *SCANS))]
WITH_NUMPY += ["tests.quant.fixed.guarded_fixed", "tests.relax.guarded"]
WITH_TORCH = [f"tests.{name} torch" for name in ("support.guarded", *SCANS)]
IN_BFLOAT16 = ["tests.rnn.guarded_bf16"]


def run_all(isa: str, programs: list[str]) -> str:
    """Return what programs print whose arrays are between inaccessible pages."""
    out = assert_runs("-X", "faulthandler", "-c", GUARDED, *programs, FASTITER_ISA=isa)
    assert out.split().count("done") == len(programs)
    return out


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
@every_isa
def test_nothing_beyond_the_tensors_is_touched(isa: str) -> None:
    pytest.importorskip("torch")
    run_all(isa, [*(WITH_TORCH if isa in LAST_OF_A_KIND else []), *IN_BFLOAT16])


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
def test_nothing_beyond_the_arrays_is_touched_and_all_round_alike() -> None:
    """The programs of quant print a hash of their results."""
    pytest.importorskip("scipy")
    printed = {isa: run_all(isa, WITH_NUMPY) for isa in LAST_OF_A_KIND}
    assert len(set(printed.values())) == 1, printed
