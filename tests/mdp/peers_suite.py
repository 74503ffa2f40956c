"""Runs the tests of pymdptoolbox or QuantEcon with only their imports changed to fastiter.mdp.compat, and counts them.

    python -m tests.mdp.peers_suite pymdptoolbox PATH    the folder src/tests of a checkout of pymdptoolbox
    python -m tests.mdp.peers_suite quantecon [PATH]     test_ddp.py; by default that of the installed package

docs/mdp/index.md lists the tests that fail, with the reasons.
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


def run(peer: str, path: str | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(folder) / "peer_tests"
        tests.mkdir()
        (tests / "__init__.py").touch()
        for file in sources(peer, path):
            (tests / file.name).write_text(changed(file.read_text(), peer))
        (Path(folder) / "nose").mkdir()
        (Path(folder) / "nose" / "__init__.py").touch()
        (Path(folder) / "nose" / "tools.py").write_text(NOSE)
        (Path(folder) / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rf",
            "--tb=line",
            "-W",
            "ignore",
            "--continue-on-collection-errors",
        ]
        return subprocess.run(command, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
