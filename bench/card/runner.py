"""Runs the steps of a part within their budgets, each in separate processes; failures are recorded and skipped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.card.parts import Step
from bench.card.record import Results
from bench.card.worker import BROKEN, MARK
from bench.harness.record import Record

ROOT = Path(__file__).parents[2]
#: Seconds that a process may take until its first item begins, including the import of torch
START = 90.0
Tell = Callable[[str], None]


@dataclass
class Progress:
    """The progress of a step, from the lines of its workers."""

    done: int = 0
    item: str = ""
    total: int = 1
    began: float = 0.0
    limit: float = START
    is_open: bool = False  #: an item has begun and has not ended
    has_record: bool = False  #: there is a record of what the item knows so far


def environment(dry: bool = False) -> dict[str, str]:
    """Return the environment of the workers: caches in build/card, and the cuBLAS setting for deterministic modes."""
    folder = ROOT / "build" / "card"
    own = {
        "PYTHONUNBUFFERED": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "FASTITER_CACHE": str(folder / "cubins"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
    }
    variables = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "TRITON_INTERPRET")}
    return {**own, **variables, **({"TRITON_INTERPRET": "1"} if dry else {})}


def last_lines(log: Path) -> list[str]:
    """Return the end of what a worker has printed since its last item began."""
    lines = log.read_text(errors="replace").strip().splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith(MARK)]
    return lines[begins[-1] + 1 if begins else 0 :][-3:]


def how_ended(code: int) -> str:
    """Return how a process with this exit code has ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def end(process: subprocess.Popen[Any]) -> None:
    """Terminate a process, its group, and the others of its session, which may have groups of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended by itself
            _, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
            if int(session) == process.pid:
                os.kill(int(path.parent.name), signal.SIGKILL)
    process.wait()


def seconds_of(expected: float, later: float, left: float) -> float:
    """Return the time that a step may take of what is left of a part, with the expected time of it and of later steps.

    It is all that the later ones are not expected to need or, if time is short, its share.
    """
    return left - later if left >= expected + later else left * expected / (expected + later)


class Runner:
    """Runs steps until a deadline, and keeps their records."""

    def __init__(self, results: Results, dry: bool, deadline: float, tell: Tell) -> None:
        self.results, self.dry, self.deadline, self.tell = results, dry, deadline, tell

    def run(self, step: Step, later: float = 0.0) -> None:
        """Run the items of a step; if a worker ends before its last item, another one continues.

        It leaves the ``later`` seconds that other steps of the part are expected to take after it.
        """
        self.results.begin(step.name)
        now = time.monotonic()
        ends = now + seconds_of(step.expected, later, self.deadline - now)
        progress = Progress()
        with tempfile.TemporaryDirectory(prefix="card-") as folder:
            lines = Path(folder) / "lines"
            while progress.done < progress.total:
                if time.monotonic() >= ends:
                    missing = progress.total - progress.done
                    why = f"out of time, {missing} of {progress.total} items left"
                    self._fail(step, f"item {progress.done + 1}", why)
                    return
                lines.write_text("")
                log, before = Path(folder) / "log", progress.done
                why = self._worker(step, lines, log, progress, ends)
                if progress.is_open:
                    self._fail(step, progress.item, "; ".join([why or "ended", *last_lines(log)]))
                    progress.done += 1
                elif progress.done == before:  # without an item that has failed, the next worker would do the same
                    self._fail(step, f"the start of item {before + 1}", "; ".join([why or "ended", *last_lines(log)]))
                    progress.done += 1
                elif why:
                    self._fail(step, f"after {progress.item}", "; ".join([why, *last_lines(log)]))
                progress.is_open = False

    def _worker(self, step: Step, lines: Path, log: Path, progress: Progress, ends: float) -> str:
        """Run one worker, and return why it ended, or "" if after its last item or one whose error broke the card."""
        command = [sys.executable, "-m", "bench.card.worker", step.where, "--lines", str(lines)]
        command += ["--skip", str(progress.done), *(["--dry-run"] if self.dry else [])]
        progress.began, progress.limit, read = time.monotonic(), START, 0
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment(self.dry), stdout=output, stderr=output, start_new_session=True
            )
            try:
                while True:
                    ended = process.poll() is not None
                    read = self._read(step, lines, read, progress)
                    if ended:
                        code = process.returncode
                        return "" if code in (0, BROKEN) else how_ended(code)
                    now = time.monotonic()
                    if now > progress.began + progress.limit:
                        return f"took more than {progress.limit:.0f} s"
                    if now > ends:
                        return f"out of time after {now - progress.began:.0f} s"
                    time.sleep(0.05)
            finally:
                end(process)

    def _read(self, step: Step, lines: Path, read: int, progress: Progress) -> int:
        """Read the lines that a worker has added."""
        text = lines.read_text().splitlines(keepends=True)
        complete = [line for line in text if line.endswith("\n")]
        for line in complete[read:]:
            message: Record = json.loads(line)
            if "begin" in message:
                progress.item, progress.total = message["name"], message["of"]
                progress.began, progress.limit, progress.is_open = time.monotonic(), message["limit"], True
                progress.has_record = False
                continue
            if "so_far" in message:
                self.results.add(step.name, message["so_far"], progress.has_record)
                progress.has_record = True
                continue
            record = message["record"]
            progress.done, progress.is_open = message["end"] + 1, False
            progress.began, progress.limit = time.monotonic(), START
            if "error" in record:
                self._fail(step, record["name"], record["error"])
            else:
                self.results.add(step.name, record, progress.has_record)
                shown = {key: value for key, value in record.items() if key not in ("name", "seconds", "plan")}
                self.tell(f"{step.name}: {record['name']}: {brief(shown)} [{record['seconds']:.1f} s]")
        return len(complete)

    def _fail(self, step: Step, item: str, error: str) -> None:
        self.results.fail(step.name, item, error)
        self.tell(f"{step.name}: {item}: FAILED: {error}")


def brief(record: Record) -> str:
    """Summarise a record in a few words."""

    def number(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{key} {number(value)}" for key, value in record.items())[:300]
