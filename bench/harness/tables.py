"""Numbers as text: rows during the measurement, Markdown with the goals afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from bench.harness.record import FRESH, REUSED, Record

BUSY = 0.8  # load average at the start, before the benchmark adds its own load
FORMS = (FRESH, REUSED)
Goals = Mapping[str, Mapping[str, float]]  # by peer and by kind of output memory

# ---- Parts ----------------------------------------------------------------------------------------------------------


def machine(described: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in described["versions"].items())
    config = (line.split() for line in described.get("config", "").splitlines())
    level = next((f"instructions {words[1]}; " for words in config if words[:1] == ["instructions"]), "")
    line = f"{described['cpu']}, {described['cores']} cores; {versions}; {level}load {described['load']:.2f}"
    busy = "\n\n**The machine was busy: numbers for more than one thread are not reliable.**"
    return line + busy if described["load"] >= BUSY else line


def heading(results: Record) -> list[str]:
    """Return the heading of a run, and a line with the versions of all packages."""
    described = results["machine"]
    return [f"## {results['family']}: {described['cpu']}", machine(described)]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def between_marks(text: str, family: str, shown: str) -> str:
    """Return a page with a text between the two marks of a family."""
    start, end = f"<!-- bench {family}: begin -->", f"<!-- bench {family}: end -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    if not after:
        raise ValueError(f"the page has no {start} and {end}")
    return f"{before}{start}\n\n{shown}\n\n{end}{after}"


def against(value: str, goal: str, reached: bool) -> str:
    return f"{value} (≥ {goal})" if reached else f"**{value}** (≥ {goal}: missed)"


def at_most(value: str, goal: str, reached: bool) -> str:
    return f"{value} (≤ {goal})" if reached else f"**{value}** (≤ {goal}: missed)"


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def on_threads(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


# # ---- During the measurement
# -----------------------------------------------------------------------------------------


def header(task: str, *columns: str) -> str:
    return f"{task:34}{'threads':>8}" + "".join(columns) + f"{'load':>6}"


HEADERS = {
    "share": header(
        "forward, output given",
        f"{'ms':>10}{'median':>9}{'GB/s':>8}{'copy':>8}{'share':>7}{'fresh, ms':>11}",
    ),
    "peers": header(
        "forward+backward", f"  {'peer':34}{'ms':>10}", f"{'fresh':>10}{'ratio':>7}", f"{'reused':>10}{'ratio':>7}"
    ),
    "long": header(
        "backward alone", f"  {'peer':34}{'ms':>10}", f"{'fresh':>10}{'ratio':>7}", f"{'reused':>10}{'ratio':>7}"
    ),
    "floor": header("share of the floor", f"{'ms':>10}{'median':>9}{'floor':>8}{'GF/s of':>9}{'share':>7}"),
    "rounding": header(
        "rounded and back", f"  {'peer':34}{'ms':>10}", f"{'fresh':>10}{'ratio':>7}", f"{'reused':>10}{'ratio':>7}"
    ),
    "rate": header("rounded at every step", f"{'ms':>10}{'median':>9}{'10^9 / s':>10}{'torch.mm':>10}{'share':>7}"),
    "steps": header(
        "rounded at every step", f"  {'peer':34}{'ms':>10}", f"{'fresh':>10}{'ratio':>7}", f"{'reused':>10}{'ratio':>7}"
    ),
    "backward": header("backward against forward", f"{'inference':>13}{'forward':>10}{'backward':>10}{'ratio':>7}"),
    "sweeps": header("one sweep", f"{'ms':>10}{'peer':>10}{'ratio':>7}{'share':>7}"),
    "methods": header("Newton against sequential", f"  {'mode':17}{'sequential':>13}{'newton':>10}{'ratio':>7}"),
}


def share_row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}{r['ms']:10.3f}{r['median_ms']:9.3f}{r['gbs']:8.1f}{r['copy_gbs']:8.1f}"
        f"{r['share']:7.0%}{r['fresh_ms']:11.3f}{r['load']:6.1f}"
    )


def peers_row(r: Record) -> str:
    start = f"{r['work']:34}{r['threads']:8}"
    ours = [r["ours"][form]["ms"] for form in FORMS]
    if not r["peers"]:
        return f"{start}  {'(no peer)':34}{'-':>10}{ours[0]:10.3f}{'-':>7}{ours[1]:10.3f}{'-':>7}{r['load']:6.1f}"
    return "\n".join(
        f"{start}  {name:34}{peer['ms']:10.3f}{ours[0]:10.3f}{peer['ratio'][FRESH]:7.2f}"
        f"{ours[1]:10.3f}{peer['ratio'][REUSED]:7.2f}{r['load']:6.1f}  {peer['how']}"
        for name, peer in r["peers"].items()
    )


def backward_row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}{r['inference']['ms']:10.3f} ms{r['forward']['ms']:10.3f}"
        f"{r['backward']['ms']:10.3f}{r['ratio']:7.2f}{r['load']:6.1f}"
    )


def methods_row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}  {r['mode']:17}{r['sequential']['ms']:10.3f} ms{r['newton']['ms']:10.3f}"
        f"{r['ratio']:7.2f}{r['load']:6.1f}"
    )


def rate_row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}{r['ms']:10.3f}{r['median_ms']:9.3f}{r['gmacs']:10.1f}{r['sgemm_gmacs']:10.1f}"
        f"{r['share']:7.0%}{r['load']:6.1f}"
    )


def floor_row(r: Record) -> str:
    return (
        f"{r['work']:34}{r['threads']:8}{r['ms']:10.3f}{r['median_ms']:9.3f}{r['floor_ms']:8.2f}{r['sgemm_gflops']:9.1f}"
        f"{r['share']:7.0%}{r['load']:6.1f}"
    )


def sweeps_row(r: Record) -> str:
    share = "-" if r["share"] is None else f"{r['share']:.0%}"
    return (
        f"{r['work']:34}{r['threads']:8}{r['ms']:10.3f}{r['peer_ms']:10.3f}{r['ratio']:7.2f}{share:>7}{r['load']:6.1f}"
        f"  {r['peer']} {r['how']}"
    )


ROWS: dict[str, Callable[[Record], str]] = {
    "share": share_row,
    "peers": peers_row,
    "long": peers_row,
    "floor": floor_row,
    "rounding": peers_row,
    "rate": rate_row,
    "steps": peers_row,
    "backward": backward_row,
    "methods": methods_row,
    "sweeps": sweeps_row,
}

# ---- Markdown -------------------------------------------------------------------------------------------------------

Entry = Callable[[Record], str]


def pivot(records: Sequence[Record], columns: Mapping[str, Entry]) -> str:
    """One row per task, with all columns for each number of threads."""
    threads = list(dict.fromkeys(r["threads"] for r in records))
    by_work = {(r["work"], r["threads"]): r for r in records}
    header = ["", *(f"{title}, {on_threads(n)}" for n in threads for title in columns)]
    rows = []
    for work in dict.fromkeys(r["work"] for r in records):
        cells = [(by_work.get((work, n)), entry) for n in threads for entry in columns.values()]
        rows.append([work, *("" if r is None else entry(r) for r, entry in cells)])
    return markdown_table(header, rows)


LARGE_COPY = "The bandwidth is the best of several copies of a large array."


def share_markdown(records: Sequence[Record], goals: Mapping[str, float], bandwidth: str = LARGE_COPY) -> list[str]:
    """`goals` by the beginning of the task's name; `bandwidth` names the bandwidth."""

    def share(r: Record) -> str:
        goal = next((goal for start, goal in goals.items() if r["work"].startswith(start)), None)
        value = f"{r['share']:.0%}"
        return value if goal is None else against(value, f"{goal:.0%}", r["share"] >= goal)

    columns: dict[str, Entry] = {
        "share of copy bandwidth": share,
        "GB/s of": lambda r: f"{r['gbs']:.1f} of {r['copy_gbs']:.1f}",
        "ms": lambda r: f"{r['ms']:.2f}",
        "fresh output, ms": lambda r: f"{r['fresh_ms']:.2f}",
    }
    note = f"Every input and output is counted once. {bandwidth}"
    return ["### Forward, output preallocated: share of the copy bandwidth", note, pivot(records, columns)]


def ratio_cell(record: Record | None, name: str, form: str, goals: Goals) -> str:
    if record is None or name not in record["peers"]:
        return "-"
    ratio = record["peers"][name]["ratio"][form]
    goal = goals.get(name, {}).get(form)
    return f"{ratio:.1f}" if goal is None else against(f"{ratio:.1f}", f"{goal:g}", ratio >= goal)


def peer_rows(records: Mapping[int, Record], goals: Goals) -> list[list[str]]:
    """A row for each peer that ran, was requested, or has a goal."""
    reasons: dict[str, str] = {}
    for r in records.values():
        for key, reason in r["out"].items():
            reasons.setdefault(key.partition(" (")[0], reason)
    names = dict.fromkeys([*goals, *(name for r in records.values() for name in r["peers"]), *reasons])
    rows = []
    for name in names:
        cells = [ratio_cell(r, name, form, goals) for r in records.values() for form in FORMS]
        ran = [
            f"{r['peers'][name]['ms']:.1f} ({r['peers'][name]['how']})" for r in records.values() if name in r["peers"]
        ]
        rows.append([name, *cells, "; ".join(ran) or reasons.get(name, "not chosen")])
    return rows


def peers_markdown(records: Sequence[Record], goals: Goals, what: str = "forward+backward") -> list[str]:
    """A table for each task: each peer's time relative to ours."""
    parts = []
    for work in dict.fromkeys(r["work"] for r in records):
        own = {r["threads"]: r for r in records if r["work"] == work}
        header = ["peer", *(f"{form}, {on_threads(n)}" for n in own for form in FORMS), "peer, ms (at its best with)"]
        ours = [f"{r['ours'][form]['ms']:.2f}" for r in own.values() for form in FORMS]
        rows = [["fastiter, ms", *ours, ""], *peer_rows(own, goals)]
        parts += [f"### {work}, {what}: times as fast as its peers", markdown_table(header, rows)]
        refused = dict.fromkeys(f"{name}: {reason}" for r in own.values() for name, reason in r["out"].items())
        parts += ["Not timed: " + "; ".join(refused) + "."] if refused else []
    return parts


def backward_markdown(records: Sequence[Record], goal: float) -> list[str]:
    columns: dict[str, Entry] = {
        "backward / forward": lambda r: at_most(f"{r['ratio']:.2f}", f"{goal:g}", r["ratio"] <= goal),
        "backward, ms": lambda r: f"{r['backward']['ms']:.2f}",
        "forward, ms": lambda r: f"{r['forward']['ms']:.2f}",
        "without gradients, ms": lambda r: f"{r['inference']['ms']:.2f}",
    }
    return ["### Backward against the forward pass before it", pivot(records, columns)]


def document(results: Record, sections: Mapping[str, Callable[[Sequence[Record]], list[str]]]) -> str:
    """Every cell of a family's table, its goal, and whether the goal is reached."""
    parts = heading(results)
    if results["options"]["quick"]:
        parts.append("**A quick run: its sizes are not those of the goals.**")
    for name, section in sections.items():
        if results.get(name):
            parts += section(results[name])
    return "\n\n".join(parts) + "\n"
