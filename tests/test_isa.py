"""Every instruction set of this build that runs here: right numbers, no access out of bounds; FASTITER_ISA chooses."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys

import pytest

import fastiter
from fastiter import _core
from rnn_calls import assert_runs, python

AVAILABLE = _core.isa_available().split()
every_isa = pytest.mark.parametrize("isa", AVAILABLE)
# v4, v4_bf16 and v4_amx differ in the products of bfloat16 alone.
LAST_OF_A_KIND = list({isa.partition("_")[0]: isa for isa in AVAILABLE}.values())
every_kind = pytest.mark.parametrize("isa", LAST_OF_A_KIND)

CONFIG = r"""fastiter      \S+
numpy         \S+
instructions  (?P<chosen>\w+) \(built: (?P<built>[\w ]+); this machine runs: (?P<available>[\w ]+)\)
threads       (?P<threads>\d+), pool: .+
(backend       \w+: .+\n)+"""


def config(text: str) -> dict[str, str]:
    match = re.fullmatch(CONFIG, text)
    assert match, text
    return match.groupdict()


def test_show_config_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
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


NUMBERS = {
    "rnn": [
        *("test_vmath.py", "test_rnn.py::test_sizes", "test_rnn.py::test_saturated_gates"),
        *(
            "test_torch_rnn_options.py::test_the_loop_of_torch",
            "test_torch_nn_stream.py::test_sizes",
        ),
    ],
    "scan": ["test_scan.py", "test_scan_sizes.py", "test_torch_scan_gradients.py"],
    "delta": ["test_delta.py::test_sizes", "test_torch_delta.py::test_gradients"],
    "newton": ["test_newton.py::test_sizes", "test_newton.py::test_saturated_gates", "test_newton_solver.py"],
    "quant": [
        *(f"test_quant.py::test_{name}" for name in ("random_fixed", "random_floats", "fixed_at_the_limits", "posits")),
        *("test_quant.py::test_other_formats", "test_quant.py::test_any_size", "test_quant_codes.py::test_every_code"),
    ],
    "blocks": [
        *(
            "test_quant_blocks.py::test_blocks_of_any_size",
            "test_quant_blocks.py::test_microscaling_with_every_rounding",
        ),
        *("test_quant_blocks.py::test_nvfp4", "test_quant_blocks.py::test_block_floating_point"),
        *("test_quant_random.py", "test_torch_quant_gradients.py::test_sizes"),
    ],
    "fixed": [
        *("test_quant_matmul.py", "test_quant_matmul_shapes.py", "test_fixed_conv.py::test_modes_and_formats"),
        *("test_fixed_matmul.py::test_paths_agree", "test_fixed_matmul.py::test_threads"),
        "test_fixed_matmul.py::test_the_lowest_codes_of_all",
    ],
    "relax": ["test_relax.py", "test_relax_stencil.py"],
}


# All other tests run the chosen instruction set.
OTHERS = [isa for isa in AVAILABLE if isa != _core.isa_chosen()]
QUIET = ("-q", "-W", "error", "-p", "no:cacheprovider")
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.mark.parametrize("family", NUMBERS)
@pytest.mark.parametrize("isa", [isa for isa in OTHERS if isa in LAST_OF_A_KIND])
def test_numbers(isa: str, family: str) -> None:
    tests = [name for name in NUMBERS[family] if HAS_TORCH or not name.startswith("test_torch")]
    # Tests named every_instruction_set switch by themselves.
    assert_runs("-m", "pytest", *QUIET, "-k", "not every_instruction_set", *tests, FASTITER_ISA=isa)


@pytest.mark.parametrize("isa", OTHERS)
def test_numbers_of_bfloat16(isa: str) -> None:
    pytest.importorskip("torch")  # NumPy has no bfloat16
    assert_runs("-m", "pytest", *QUIET, "test_rnn_bf16.py", FASTITER_ISA=isa)
    assert_runs("-m", "pytest", *QUIET, "-k", "bfloat16", "test_torch_nn_one_call.py", FASTITER_ISA=isa)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
@every_isa
def test_bfloat16_touches_nothing_beyond_the_arrays(isa: str) -> None:
    pytest.importorskip("torch")
    assert assert_runs("-X", "faulthandler", "guarded_bf16.py", FASTITER_ISA=isa).split() == ["done"]


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
@pytest.mark.parametrize(
    ("script", "library"),
    [
        *itertools.product(["guarded.py", "guarded_delta.py", "guarded_scan.py"], ["numpy", "torch"]),
        ("guarded.py", "quant"),
    ],
)
@every_kind
def test_nothing_beyond_the_arrays_is_touched(isa: str, script: str, library: str) -> None:
    if library == "torch":
        pytest.importorskip("torch")
    assert assert_runs("-X", "faulthandler", script, library, FASTITER_ISA=isa).split() == ["done"]


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
@every_kind
def test_nothing_beyond_the_factors_is_touched(isa: str) -> None:
    assert assert_runs("-X", "faulthandler", "guarded_fixed.py", FASTITER_ISA=isa).split() == ["done"]


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
@every_kind
def test_relaxation_touches_nothing_beyond_the_vectors(isa: str) -> None:
    pytest.importorskip("scipy")
    assert assert_runs("-X", "faulthandler", "guarded_relax.py", FASTITER_ISA=isa).split() == ["done"]
