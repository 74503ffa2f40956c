"""Networks between ranks that are slow, fragment messages, or fail, by proxies in the connections."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.distributed import proxy_jobs
from tests.distributed.ranks import outcomes, results

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have a single loopback address")


def test_messages_in_late_fragments_change_no_bit(tmp_path: Path) -> None:
    passed = results(proxy_jobs.same_bits, 3, str(tmp_path / "store"))
    assert sum(passed) > 10_000


@pytest.mark.parametrize("how", ["hold", "end"])
def test_a_network_that_fails_is_one_error_on_every_rank(how: str, tmp_path: Path) -> None:
    """The disconnected rank and the others detect the failure, each in at most two exchanges."""
    timeout = 3.0
    found = outcomes(proxy_jobs.cut, 3, str(tmp_path / "store"), how, 2, timeout, limit=40.0)
    for rank, one in enumerate(found):
        assert one.error is None and one.code == 0, one.trace
        message, seconds = one.result
        assert message.startswith(f"linear_scan: rank {rank} of 3 got no answer from ") and "\n" not in message
        assert seconds < 2 * timeout + 10.0
