"""Runs the tests of pymdptoolbox or QuantEcon with only their imports changed to fastiter.mdp.compat, and counts them.

    python -m tests.mdp.peers_suite pymdptoolbox PATH    the folder src/tests of a checkout of pymdptoolbox
    python -m tests.mdp.peers_suite quantecon [PATH]     test_ddp.py; by default that of the installed package
    python -m tests.mdp.peers_suite pymdptoolbox PATH unchanged    with the package itself

Prints their number and fails unless exactly the tests in REASONS fail, which docs/mdp/compat.md counts.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

#: The imports that change, as regular expressions
CHANGES = {
    "pymdptoolbox": [
        (r"^import mdptoolbox(, mdptoolbox\.\w+|\.\w+)?$", "import fastiter.mdp.compat as mdptoolbox"),
        (r"^from mdptoolbox import", "from fastiter.mdp.compat import"),
    ],
    "quantecon": [(r"^from quantecon\.markov import", "from fastiter.mdp.compat.quantecon import")],
}
#: The tests that fail on purpose, by the reason
REASONS: dict[str, dict[str, str]] = {
    "quantecon": {},
    "pymdptoolbox": {
        "V is within epsilon / 2 of the optimal values, and policies are evaluated to rounding": """
            test_ValueIteration.py::test_ValueIteration_small
            test_ValueIteration.py::test_ValueIteration_small_sparse
            test_PolicyIterationModified.py::TestPolicyIterationModified::test_small
            test_PolicyIteration.py::test_PolicyIteration_iterative_forest
        """,
        "sweeps in place end when their bounds are epsilon wide": """
            test_ValueIterationGS.py::test_ValueIterationGS_small
            test_ValueIterationGS.py::test_ValueIterationGS_small_sparse
            test_ValueIterationGS.py::test_ValueIterationGS_forest
            test_ValueIterationGS.py::test_ValueIterationGS_forest_sparse
        """,
        "it calls private methods": """
            test_MDP.py::TestUnitsMDP::test_MDP_has_startRun_method
            test_MDP.py::TestUnitsMDP::test_MDP_has_endRun_method
            test_PolicyIteration.py::test_PolicyIteration_computePpolicyPRpolicy_forest
            test_PolicyIteration.py::test_PolicyIteration_evalPolicyIterative_forest
            test_PolicyIteration.py::test_PolicyIteration_evalPolicyIterative_bellmanOperator_forest
            test_PolicyIteration.py::test_PolicyIteration_evalPolicyMatrix_forest
        """,
    },
}
#: The few functions of nose, which has no version for current interpreters, that pymdptoolbox's tests import
NOSE = """
import unittest

_case = unittest.TestCase()
assert_equal, assert_is_none = _case.assertEqual, _case.assertIsNone
assert_raises, assert_true = _case.assertRaises, _case.assertTrue
"""


def changed(source: str, peer: str) -> str:
    for pattern, replacement in CHANGES[peer]:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    return source


def sources(peer: str, path: str | None) -> list[Path]:
    """Return the test files of a peer."""
    if peer == "pymdptoolbox":
        return sorted(Path(path or ".").glob("*.py"))
    if path is None:
        spec = find_spec("quantecon")
        assert spec is not None and spec.origin is not None, "quantecon must be installed"
        path = str(Path(spec.origin).parent / "markov" / "tests" / "test_ddp.py")
    return [Path(path)]


def failures(peer: str, path: str | None, is_changed: bool) -> tuple[int, set[str]]:
    """Run the tests; return how many there are, and the names of those that fail."""
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(folder) / "peer_tests"
        tests.mkdir()
        (tests / "__init__.py").touch()
        for file in sources(peer, path):
            (tests / file.name).write_text(changed(file.read_text(), peer) if is_changed else file.read_text())
        (Path(folder) / "nose").mkdir()
        (Path(folder) / "nose" / "__init__.py").touch()
        (Path(folder) / "nose" / "tools.py").write_text(NOSE)
        (Path(folder) / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
        command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=line", "-W", "ignore"]
        told = subprocess.run([*command, "--continue-on-collection-errors"], cwd=folder, capture_output=True, text=True)
        print(told.stdout)
        results = re.findall(r"^(PASSED|FAILED|ERROR) peer_tests/(\S+)", told.stdout, re.MULTILINE)
        return len(results), {name for result, name in results if result != "PASSED"}


def main(peer: str, path: str | None = None, unchanged: str | None = None) -> int:
    """Return 1 if tests fail for which REASONS has none, or the other way round."""
    count, failed = failures(peer, path, unchanged is None)
    print(f"{count - len(failed)} of {count} tests pass")
    if unchanged is not None:
        return 0
    reasons = {name: reason for reason, names in REASONS[peer].items() for name in names.split()}
    for name in sorted(failed):
        print(f"{name}: {reasons.get(name, 'unexpected')}")
    for name in sorted(reasons.keys() - failed):
        print(f"{name}: passes, though it was expected to fail, as {reasons[name]}")
    return int(failed != reasons.keys())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
