"""Writes docs/performance.md from reports/performance: `python tools/performance_page.py`.

Every number on the page is one of a record; a benchmark without a record is marked "not run". What
stands there between "<!-- by hand: NAME -->" and "<!-- end -->" is kept as it is.
"""

import json
import math
from pathlib import Path
import re
from typing import Any, NamedTuple

from bench import BENCHMARKS, title

ROOT = Path(__file__).parents[1]
PAGE, REPORTS = ROOT / "docs" / "performance.md", ROOT / "reports" / "performance"
IDS = tuple(f"B{i}" for i in range(19))
MACHINES = {"cpu": "On a CPU", "gpu": "On an accelerator"}
COMMANDS = {"cpu": "make bench", "gpu": "tools/gpu_bench.sh 1`, `2`, `3"}
ABSOLUTE = ("mfu_989", "of_published")
ELSEWHERE = {"cpu": ("B8",), "gpu": ("B14", "B15", "B17")}
HAND = {"introduction": "", "limits": "## What limits it", "lost": "## Tried and lost"}
Record = dict[str, Any]


class Column(NamedTuple):
    heading: str
    factor: float = 1.0
    digits: int = 3  # that are shown; whole numbers are shown whole


MS, PERCENT, COUNT = (1e3, 4), (100.0, 3), (1.0, 1)
COLUMNS = {
    "median_s": Column("median ms", *MS),
    "p10_s": Column("p10 ms", *MS),
    "p90_s": Column("p90 ms", *MS),
    "tokens_per_s": Column("tokens/s", *COUNT),
    "megabytes_per_s": Column("MB/s"),
    "flops_per_s": Column("TF/s", 1e-12),
    "bytes_per_s": Column("GB/s", 1e-9),
    "mfu_989": Column("% of 989 TF/s", *PERCENT),
    "of_gemm": Column("% of the product", *PERCENT),
    "of_copy": Column("% of the copy", *PERCENT),
    "of_plateau": Column("% of the best", *PERCENT),
    "of_published": Column("% of 614,750 tokens/s", *PERCENT),
    "parameters": Column("parameters", *COUNT),
    "compile_s": Column("compile s"),
    "first_run_s": Column("first run s"),
    "program_bytes": Column("program GB", 1e-9),
    "program_bytes_per_token": Column("program kB/token", 1e-3),
    "of_whole": Column("% of whole logits", *PERCENT),
    "residual_bytes_per_token": Column("kept kB/token", 1e-3),
    "peak_bytes": Column("process's peak so far GB", 1e-9),
    "imported_s": Column("imported s"),
    "compiled_s": Column("compiled s"),
    "stepped_s": Column("stepped s"),
    "steps_lost": Column("steps lost"),
    "bytes_per_parameter": Column("bytes a parameter"),
    "all-gather": Column("all-gather"),
    "all-reduce": Column("all-reduce"),
    "reduce-scatter": Column("reduce-scatter"),
    "all-to-all": Column("all-to-all"),
    "collective-permute": Column("permute"),
}
NOTES = {  # of a record, beside its rows
    "stall_share": Column("share of a step that waits for rows"),
    "unrolled_s_per_layer": Column("ms a layer, unrolled", *MS),
    "unrolled_off_the_line": Column("largest distance from that line, unrolled"),
    "scanned_s_per_layer": Column("ms a layer, scanned", *MS),
    "scanned_off_the_line": Column("largest distance from that line, scanned"),
    "same_tokens": Column("share of tokens that both decode alike"),
    "checkpoint_bytes": Column("MB in the checkpoint", 1e-6),
}
READING = """\
`tools/performance_page.py` writes this page from the records in
[reports/performance](../reports/performance), which `make bench` and `tools/gpu_bench.sh` leave
there. Times are of one call; tokens/s are at the median. A ratio is the first one's time over the
second's, and what it compares took turns, run by run; the product and the copy ran before the other
rows, and those of B3 to B6 and B16 and the train steps of B7 each ran alone, one after the other.
Operations are counted as 6 a parameter of a matrix and causal attention as half of T x T; "the
product" and "the copy" are the best that the same process reached on a large matrix product of that
dtype and on a large array (2 bytes moved for each one copied). "program" is the memory that XLA
says the compiled step needs.
"""


def page(reports: Path, before: str = "") -> str:
    """The page of the records below `reports`, with what is written by hand in `before`.

    Raises:
      ValueError: a record is of tiny sizes, which measure nothing.
    """
    parts = ["# Performance", by_hand("introduction", before), READING.rstrip()]
    for folder, heading in MACHINES.items():
        parts += machine_parts(folder, heading, records(reports / folder))
    parts += [by_hand("limits", before), by_hand("lost", before)]
    return "\n\n".join(parts) + "\n"


def by_hand(name: str, before: str) -> str:
    """A section that is kept, with its markers."""
    begin = f"<!-- by hand: {name} -->"
    found = re.search(rf"{begin}\n(.*?)<!-- end -->", before, re.DOTALL)
    text = found[1].strip() if found else HAND[name]
    return "\n\n".join(filter(None, [begin, text, "<!-- end -->"]))


def records(folder: Path) -> list[tuple[str, Record]]:
    """Names and contents of the files in a folder, in the order of the benchmarks."""
    found = [(path.stem, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    for name, record in found:
        if record["config"]["scale"] == "tiny":
            raise ValueError(f"{folder / name}.json is of --scale tiny; measure it, or delete it")
    return sorted(found, key=lambda named: (_place(named[1]["id"]), named[0]))


def _place(name: str) -> int:
    """B0 to B18, then the others."""
    return IDS.index(name) if name in IDS else len(IDS)


def machine_parts(folder: str, heading: str, found: list[tuple[str, Record]]) -> list[str]:
    parts = [f"## {heading}"]
    parts += ["\n".join(dict.fromkeys(_machine(record) for _, record in found))] if found else []
    for name, record in found:
        parts += record_parts(name, record, on_cpu=folder == "cpu")
    ran = {record["id"] for _, record in found}
    left = [i for i in IDS if i not in ran and i not in ELSEWHERE[folder]]
    if left:
        rows = [f"| {i} | {described(i)} | `{_command(i)}` |" for i in left]
        table = ["| not run | what it measures | command |", "|---|---|---|", *rows]
        parts += [f"`{COMMANDS[folder]}` runs a set of them.", "\n".join(table)]
    return parts


def _machine(record: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"- {record['date']}: {record['device']}, {record['processor']}; {versions}"


def described(name: str) -> str:
    return title(BENCHMARKS[name]).removesuffix(".")


def _command(name: str) -> str:
    return f"python tools/bench.py {name}"


def record_parts(name: str, record: Record, *, on_cpu: bool) -> list[str]:
    """Heading, origin, table, ratios and notes of a record.

    A record of another machine stands beside the first under a name of its own, as B15-epyc.
    """
    peer = "".join(f", {k} {v}" for k, v in record.get("peer", {}).items())
    runs = f": {record['n']} runs" if "n" in record else ""
    load = ", ".join(f"{x:.1f}" for x in record["load"])
    where = record["processor" if on_cpu else "device"]
    origin = f"`python tools/bench.py {record['command']}`{runs}{peer}; {where}, load {load}."
    parts = [f"### {name}: {described(record['id'])}", origin, sizes_of(record)]
    parts.append(table_of(record["results"], on_cpu))
    ratios = {k.removeprefix("ratio "): v for k, v in record.items() if k.startswith("ratio ")}
    if ratios:
        parts.append(ratio_table(ratios))
    notes = [f"- {c.heading}: {_number(record[k], c)}" for k, c in NOTES.items() if k in record]
    notes += [f"- not measured: {k}, since {why}" for k, why in record.get("missing", {}).items()]
    return [part for part in [*parts, "\n".join(notes)] if part]


def sizes_of(record: Record) -> str:
    sizes = record["config"]["sizes"].items()
    return "\n".join(f"- {n}: {', '.join(f'{k} {v:,}' for k, v in s.items())}" for n, s in sizes)


def table_of(results: dict[str, Record], on_cpu: bool) -> str:
    """The columns that any row has; a CPU is not held to figures of an accelerator."""
    present = {key for row in results.values() for key in row} - set(ABSOLUTE if on_cpu else ())
    columns = {key: column for key, column in COLUMNS.items() if key in present}
    lines = ["| | " + " | ".join(c.heading for c in columns.values()) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for name, row in results.items():
        cells = (_number(row.get(key), column) for key, column in columns.items())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio_table(ratios: dict[str, dict[str, float]]) -> str:
    lines = [
        "| time over time | of medians | of minima | median of rounds |",
        "|---|---:|---:|---:|",
    ]
    for name, found in ratios.items():
        three = (found[k] for k in ("of_medians", "of_minima", "median_of_rounds"))
        lines.append(f"| {name} | " + " | ".join(f"{r:.2f}" for r in three) + " |")
    return "\n".join(lines)


def _number(value: float | None, column: Column) -> str:
    if value is None:
        return ""
    value *= column.factor
    before = math.floor(math.log10(abs(value))) + 1 if value else 1
    return f"{value:,.{max(0, column.digits - before)}f}"


def main() -> None:
    before = PAGE.read_text() if PAGE.exists() else ""
    PAGE.write_text(page(REPORTS, before))


if __name__ == "__main__":
    main()
