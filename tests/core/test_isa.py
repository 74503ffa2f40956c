"""Every instruction set of this build that runs here: right numbers, no access out of bounds; FASTITER_ISA selects."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest

import fastiter
from fastiter import _core
from tests.rnn.calls import assert_runs, python

AVAILABLE = _core.isa_available().split()
every_isa = pytest.mark.parametrize("isa", AVAILABLE)
# Levels of one kind, such as v4, v4_bf16 and v4_amx, differ only in the products of bfloat16.
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
        "tests/scan/test_arrays.py",
        "tests/scan/test_sizes.py",
        "tests/delta/test_arrays.py::test_sizes",
        "tests/delta/test_torch_functional.py::test_gradients",
    ],
    "newton, relax": [
        "tests/newton/test_arrays.py::test_sizes",
        "tests/newton/test_arrays.py::test_saturated_gates",
        "tests/newton/test_solver.py",
        "tests/relax/test_arrays.py",
        "tests/relax/test_stencil.py",
    ],
    "formats": [
        *(
            f"tests/quant/formats/test_arrays.py::test_{name}"
            for name in ("random_fixed", "random_floats", "fixed_at_the_limits", "posits", "other_formats", "any_size")
        ),
        "tests/quant/formats/test_codes.py::test_every_code",
        *(
            f"tests/quant/formats/test_blocks.py::test_{name}"
            for name in (
                "blocks_of_any_size",
                "microscaling_with_every_rounding",
                "nvfp4",
                "block_floating_point",
            )
        ),
        "tests/quant/formats/test_random.py::test_random_words_are_those_of_philox",
        "tests/quant/formats/test_random.py::test_stochastic_rounding_has_the_specified_bits",
        "tests/quant/torch/test_torch_gradients.py::test_sizes",
    ],
    "fixed": [
        "tests/quant/products/test_matmul.py",
        "tests/quant/products/test_matmul_shapes.py",
        "tests/quant/fixed/test_fixed_conv.py::test_modes_and_formats",
        "tests/quant/fixed/test_fixed_matmul.py::test_paths_agree",
        "tests/quant/fixed/test_fixed_matmul.py::test_the_lowest_codes_of_all",
    ],
}


#: Run on every instruction set: v4, v4_bf16 and v4_amx differ here. NumPy has no bfloat16, so these need torch.
BFLOAT16 = [
    "tests/rnn/test_bf16.py",
    *(
        f"tests/rnn/nn/test_torch_nn_one_call.py::test_bfloat16_{name}"
        for name in ("is_as_exact", "rows_are_independent", "continues_bit_for_bit")
    ),
]

# All other tests run the chosen instruction set.
OTHERS = [isa for isa in AVAILABLE if isa != _core.isa_chosen()]
QUIET = ("-q", "-W", "error", "-p", "no:cacheprovider")
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.mark.parametrize("isa", OTHERS)
def test_numbers(isa: str) -> None:
    """All in one process, as torch, and the modules of the tests, take seconds to import."""
    chosen = [name for names in NUMBERS.values() for name in names] if isa in LAST_OF_A_KIND else []
    tests = [name for name in (*chosen, *BFLOAT16) if HAS_TORCH or (name in chosen and "/test_torch" not in name)]
    # Tests named every_instruction_set switch the instruction set themselves; those of large weights count passes.
    left_out = "not every_instruction_set and not large_weights"
    if not tests:
        pytest.skip("only the products of bfloat16 differ, which need torch")
    assert_runs("-m", "pytest", *QUIET, "-k", left_out, *tests, timeout=3000, FASTITER_ISA=isa)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
@every_isa
def test_bfloat16_touches_nothing_beyond_the_arrays(isa: str) -> None:
    pytest.importorskip("torch")
    assert assert_runs("-X", "faulthandler", "-m", "tests.rnn.guarded_bf16", FASTITER_ISA=isa).split() == ["done"]


GUARDED = """
import sys
from tests.delta import guarded as delta
from tests.quant.fixed import guarded_fixed as fixed
from tests.scan import guarded as scan
from tests.ssm import guarded as ssm, guarded_attention as attention, guarded_conv as conv
from tests.support import guarded as support

library = sys.argv[1]
for module in (support, delta, scan, ssm, attention, conv):
    module.main(library)
if library == "numpy":
    support.main("quant")
    fixed.main()
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
@pytest.mark.parametrize("library", ["numpy", "torch"])
@every_kind
def test_nothing_beyond_the_arrays_is_touched(isa: str, library: str) -> None:
    if library == "torch":
        pytest.importorskip("torch")
    assert assert_runs("-X", "faulthandler", "-c", GUARDED, library, FASTITER_ISA=isa).split() == ["done"]


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected the way of Linux")
@every_kind
def test_relaxation_touches_nothing_beyond_the_vectors(isa: str) -> None:
    pytest.importorskip("scipy")
    assert assert_runs("-X", "faulthandler", "-m", "tests.relax.guarded", FASTITER_ISA=isa).split() == ["done"]
