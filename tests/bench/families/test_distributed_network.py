"""The emulated network of the benchmark of distributed runs: its switch, and ranks in namespaces if available."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench.distributed import bad_network, network  # noqa: E402
from bench.distributed.network import MTU, Link, Switch, address  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no network namespaces")
FAST = Link(1e9, 1e-3)


@contextmanager
def switch(count: int, link: Link) -> Iterator[tuple[Switch, list[socket.socket]]]:
    """A switch with sockets in place of devices."""
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
    for ours, theirs in ends:
        ours.settimeout(10.0)
        theirs.setblocking(False)
    between = Switch([theirs.detach() for _, theirs in ends], link)
    between.start()
    try:
        yield between, [ours for ours, _ in ends]
    finally:
        between.stop()
        for ours, _ in ends:
            ours.close()


def packet(to: str, number: int, length: int = 60) -> bytes:
    """An IP header with only its destination and the number."""
    return (bytes([0x45]) + bytes(15) + socket.inet_aton(to) + bytes([number])).ljust(length, b"\0")


def test_packets_arrive_in_order_where_they_are_sent_to() -> None:
    with switch(3, FAST) as (between, ranks):
        for number in range(20):
            ranks[0].send(packet(address(1 + number % 2), number, 60 + number))
        ranks[0].send(packet("10.0.0.1", 0) + b"to nobody")
        for number in range(20):
            assert ranks[1 + number % 2].recv(MTU) == packet(address(1 + number % 2), number, 60 + number)
        until = time.monotonic() + 10.0
        while between.passed < 20 and time.monotonic() < until:  # a packet is counted after it is sent
            time.sleep(0.01)
        assert (between.passed, between.lost) == (20, 0)


@pytest.mark.parametrize("how", ["lost", "cut", "full"])
def test_packets_that_do_not_arrive(how: str) -> None:
    """All packets are lost, or those of a disconnected rank, or those that do not fit the queue of a slow link."""
    link = Link(8 * MTU, 0.0) if how == "full" else FAST  # one packet per second
    with switch(2, link) as (between, ranks):
        if how == "lost":
            between.link = Link(1e9, 0.0, 1.0)
        elif how == "cut":
            between.cut(0)
        else:
            between._free[0] = time.monotonic() + 2000.0  # this many packets wait
        for number in range(5):
            ranks[0].send(packet(address(1), number, MTU))
        until = time.monotonic() + 10.0
        while between.lost < 5 and time.monotonic() < until:
            time.sleep(0.01)
        assert (between.passed, between.lost) == (0, 5)


def test_a_link_has_the_costs_of_its_packets() -> None:
    link = Link(100e6, 5e-3, 0.01)
    assert str(link) == "100 Mbit/s, 5 ms, 1% lost"
    assert link.beta * (MTU - 52) == pytest.approx(8 * MTU / 100e6) and link.alpha == 5e-3


def test_ranks_in_namespaces_or_why_there_are_none() -> None:
    """Where namespaces are permitted, all ranks raise when a link goes down; elsewhere the error names the reason."""
    refused = r"no network namespace can be made here: |no TUN device can be made here: "
    script, folder = "import network; network.enter_namespace(0)", Path(network.__file__).parent  # without torch
    if subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True).returncode:
        with pytest.raises(PermissionError, match=refused):
            bad_network.broken(FAST)
    else:
        record = bad_network.broken(FAST)
        assert record["way"] == "all raise" and record["lost"] > 0
