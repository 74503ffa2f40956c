"""Contests with missing, wrong or broken peers: which of them are refused or timed, and the table."""

from __future__ import annotations

import argparse
import operator
import os
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import fastiter  # noqa: E402
from bench.harness import alone, contest, gate, limits, peers, session, tables, timing  # noqa: E402
from bench.harness.contest import FRESH, REUSED, Absent, Record, Work, leaves, torch_entrant  # noqa: E402


def product(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return a * x


def work() -> Work:
    torch.manual_seed(0)
    return Work("a x", product, product, leaves(a=torch.randn(3, 4), x=torch.randn(3, 4)), torch.randn(3, 4), 4)


# ---- The gate -------------------------------------------------------------------------------------------------------


def test_results_are_compared_with_twice_the_precision() -> None:
    task = work()
    assert task.expected["h"].dtype == torch.float32
    assert torch.equal(task.expected["dx"], task.cotangent * task.inputs["a"])
    assert task.check() < 1e-6


@pytest.mark.parametrize(
    ("wrong", "name"),
    [(lambda a, x: a * x + 1e-3, "h"), (lambda a, x: a.detach() * x + 0 * a, "da"), (lambda a, x: a * x * 1.001, "h")],
)
def test_a_wrong_result_of_ours_ends_the_run(wrong: object, name: str) -> None:
    with pytest.raises(gate.GateError, match=f"a x: {name} is off"):
        contest.race(replace(work(), ours=wrong), [], 1, 0.0)
    with pytest.raises(gate.GateError, match=f"a x: {name} is off"):
        contest.backward_against_forward(replace(work(), ours=wrong), 1, 0.0)


def broken(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError("not on\nthis device")


def test_wrong_broken_and_absent_peers_are_not_timed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = work()
    entrants = [
        torch_entrant("right", product, task),
        torch_entrant("wrong", lambda a, x: a * x + 1, task, "offset"),
        torch_entrant("broken", broken, task),
        Absent("gone", "no gone here"),
    ]
    record = contest.race(task, entrants, 1, 0.0)
    assert list(record["peers"]) == ["right"]
    assert record["out"]["gone"] == "no gone here"
    assert record["out"]["broken (1 thread)"] == "NotImplementedError: not on"
    assert record["out"]["wrong (offset, 1 thread)"].startswith("wrong: h is off by")
    assert "not timed: gone: no gone here" in capsys.readouterr().out


# ---- The race -------------------------------------------------------------------------------------------------------


def test_ours_is_timed_on_fresh_pages_and_on_used_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(fastiter, "release_memory", lambda: events.append("release"))
    contest.on_fresh_pages(lambda: events.append("call"))()
    assert events == ["call", "release"]
    record = contest.race(work(), [], 1, 0.0)
    assert set(record["ours"]) == {FRESH, REUSED}
    assert record["peers"] == {}


def test_the_fastest_variant_and_thread_count_is_used() -> None:
    keys = ["peer (1 thread)", "peer (2 threads)", "peer (time first, 1 thread)", "other (1 thread)"]
    admitted = [timing.Competitor(key, print, 1, variant_of=key.partition(" ")[0]) for key in keys]
    seconds = {FRESH: 2.0, REUSED: 1.0, keys[0]: 6.0, keys[2]: 4.0, keys[3]: 8.0}  # 2 threads dropped out
    timings = {name: timing.Timing([value, 3 * value]) for name, value in seconds.items()}
    found = contest.against_ours(timings, admitted, [FRESH, REUSED])
    assert found["peer"]["how"] == "time first, 1 thread"
    assert found["peer"]["ratio"] == found["peer"]["ratio_median"] == {FRESH: 2.0, REUSED: 4.0}
    assert found["other"]["ratio"] == {FRESH: 4.0, REUSED: 8.0}


def test_a_peer_is_tried_on_one_thread_unless_it_cannot_change() -> None:
    entrant = torch_entrant("peer", product, work())
    assert contest.thread_counts(entrant, 2) == [1, 2]
    assert contest.thread_counts(entrant, 1) == [1]
    assert contest.thread_counts(replace(entrant, fixed_threads=True), 2) == [2]


def test_short_calls_alternate_with_long_ones() -> None:
    ours, one, other = (timing.Competitor(name, print, often=name == "ours") for name in ("ours", "one", "other"))
    assert [c.name for c in timing.turns([one, ours, other])] == ["ours", "one", "ours", "other"]
    assert [c.name for c in timing.turns([one, ours, other], 2)] == ["ours", "ours", "one", "ours", "ours", "other"]
    assert timing.turns([ours]) == [ours]


@pytest.mark.parametrize(("longest", "batches"), [(0.1, 1), (1.0, 1), (4.0, 4), (30.0, 5)])
def test_short_calls_have_several_batches_beside_long_ones(longest: float, batches: int) -> None:
    ours, peer = timing.Competitor("ours", print, often=True), timing.Competitor("peer", print)
    assert timing.batches_a_turn([ours, peer], {"ours": 0.1, "peer": longest}, {"ours": 1, "peer": 1}) == batches
    assert timing.batches_a_turn([peer], {"peer": longest}, {"peer": 1}) == 1


def test_backward_is_only_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"inference": 1.0, "forward": 2.0, "backward": 5.0}

    def interleave(competitors: list[timing.Competitor], *_: object) -> dict[str, timing.Timing]:
        for competitor in competitors:
            competitor.call()
        return {competitor.name: timing.Timing([seconds[competitor.name]]) for competitor in competitors}

    monkeypatch.setattr(contest, "interleave", interleave)
    record = contest.backward_against_forward(work(), 1, 0.0)
    assert record["ratio"] == 2.5
    assert record["inference"]["ms"] == 1000.0


def test_copies_count_reads_and_writes() -> None:
    for threads in (1, 2):
        found = limits.copies(1 << 20, threads)
        assert [copy.work for copy in found] == [2.0 * (1 << 20)] * 2
        for copy in found:
            copy.call()


# ---- What is missing ------------------------------------------------------------------------------------------------


def test_a_missing_module_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    peers.load.cache_clear()
    assert peers.load("no_such_peer.at_all") is peers.load("no_such_peer.at_all") is None
    assert capsys.readouterr().out == "left out: no_such_peer.at_all: No module named 'no_such_peer'\n"
    assert peers.load("math") is not None
    assert peers.absent("the peer", "no_such_peer.at_all") == Absent("the peer", "no no_such_peer here")


def test_a_variable_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "1")
    monkeypatch.delenv("GONE", raising=False)
    with peers.environment({"HERE": "2", "GONE": "3"}):
        assert (peers.os.environ["HERE"], peers.os.environ["GONE"]) == ("2", "3")
    assert peers.os.environ["HERE"] == "1"
    assert "GONE" not in peers.os.environ


def test_a_separate_process_has_its_heap_from_the_start() -> None:
    told = {heap: alone.alone(heap, os.getenv, "MALLOC_MMAP_MAX_", "not told") for heap in alone.HEAPS}
    assert told == {"own": os.environ.get("MALLOC_MMAP_MAX_", "not told"), "kept": "0"}
    assert alone.alone("own", os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        alone.alone("own", operator.truediv, 1, 0)


# ---- The command ----------------------------------------------------------------------------------------------------


def options(*words: str) -> session.Options:
    parser = argparse.ArgumentParser()
    session.add_arguments(parser, ("peers", "backward"))
    return session.read_options("scan", parser.parse_args(words), ("peers", "backward"))


def test_options() -> None:
    assert options() == session.Options(("peers", "backward"))
    assert options("--quick") == session.Options(("peers", "backward"), budget=0.1, compile=False, quick=True)
    assert options("--quick", "--budget", "2", "--threads", "2").budget == 2.0
    assert not options("--no-compile").compile
    with pytest.raises(SystemExit, match="bench scan: --sections must be of peers, backward, got speed"):
        options("--sections", "speed")


def test_peers_are_chosen_by_words() -> None:
    entrants = [Absent(name, "") for name in ("torch scan", "jax.lax.scan", "loop")]
    assert [peer.name for peer in options("--peers", "jax,loop").chosen(entrants)] == ["jax.lax.scan", "loop"]
    assert options().chosen(entrants) == entrants


# ---- The report -----------------------------------------------------------------------------------------------------

GOALS = {"fast": {FRESH: 5.0, REUSED: 7.0}, "slow": {REUSED: 2.0}, "gone": {FRESH: 4.0}}


def peer(fresh: float, reused: float, how: str) -> Record:
    return {"ms": 12.0, "how": how, "ratio": {FRESH: fresh, REUSED: reused}}


def race_records() -> list[Record]:
    ours = {FRESH: {"ms": 2.0}, REUSED: {"ms": 1.0}}
    both = {"fast": peer(6.0, 6.5, "1 thread"), "slow": peer(9.0, 18.0, "compiled, 2 threads")}
    usual = {"work": "scan", "ours": ours, "load": 0.5}
    return [
        {**usual, "threads": 1, "peers": both, "out": {"gone": "no gone here"}},
        {
            **usual,
            "threads": 2,
            "peers": {"fast": peer(4.0, 8.0, "2 threads")},
            "out": {"slow (2 threads)": "h is off"},
        },
    ]


def test_the_table_has_every_cell() -> None:
    title, table, refused = tables.peers_markdown(race_records(), GOALS)
    assert title == "### scan, forward+backward: times as fast as its peers"
    assert table.splitlines() == [
        "| peer | fresh, 1 thread | reused, 1 thread | fresh, 2 threads | reused, 2 threads "
        "| peer, ms (at its best with) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| fastiter, ms | 2.00 | 1.00 | 2.00 | 1.00 |  |",
        "| fast | 6.0 (≥ 5) | **6.5** (≥ 7: missed) | **4.0** (≥ 5: missed) | 8.0 (≥ 7) "
        "| 12.0 (1 thread); 12.0 (2 threads) |",
        "| slow | 9.0 | 18.0 (≥ 2) | - | - | 12.0 (compiled, 2 threads) |",
        "| gone | - | - | - | - | no gone here |",
    ]
    assert refused == "Not timed: gone: no gone here; slow (2 threads): h is off."


def test_rows_have_a_line_for_each_peer() -> None:
    with_two, with_one = race_records()
    assert [line.split()[2] for line in tables.peers_row(with_two).splitlines()] == ["fast", "slow"]
    assert "(no peer)" in tables.peers_row({**with_one, "peers": {}})
    assert set(tables.HEADERS) == set(tables.ROWS)


def test_share_and_backward_are_shown_beside_their_goals() -> None:
    usual = {"ms": 3.0, "fresh_ms": 4.0, "gbs": 8.0, "copy_gbs": 10.0, "share": 0.8, "threads": 1}
    records = [{**usual, "work": "linear_scan"}, {**usual, "work": "block_scan", "share": 0.5}]
    table = tables.share_markdown(records, {"linear_scan": 0.8})[-1]
    assert "| linear_scan | 80% (≥ 80%) | 8.0 of 10.0 | 3.00 | 4.00 |" in table
    assert "| block_scan | 50% |" in table
    passes = {name: {"ms": 1.0} for name in ("inference", "forward", "backward")}
    record = {"work": "scan", "threads": 2, **passes, "ratio": 2.6}
    assert "| scan | **2.60** (≤ 2.5: missed) | 1.00 | 1.00 | 1.00 |" in tables.backward_markdown([record], 2.5)[-1]
