"""What of the benchmark plan follows from other records: throughput.csv and memory.json.

BMRK-02 is the validation's throughput step, BMRK-03 the memory that XLA says a train step needs.
"""

import csv
import io
import json
from pathlib import Path

from claims import Record, Records

from psann_jax.run.figures import said_of

MEMORY = ("cpu/step-memory", "cpu/B9", "gpu/B9")  # the benchmarks of it


def throughput(records: Records) -> list[str]:
    """BMRK-02, from the validation's throughput step."""
    parts = ["## BMRK-02: tokens a second"]
    command = (
        "`python tools/validate.py --only GPU-03`, on an accelerator with 65,536 to 262,144 tokens"
    )
    rows = throughput_rows(records)
    if not rows:
        return [*parts, f"**Not run.** {command}"]
    lines = ["| base | tokens a call | forward | training |", "|---|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['base']} | {row['batch_tokens']:,} | {row['forward_tokens_per_s']:,.0f} "
            f"| {row['train_tokens_per_s']:,.0f} |"
        )
    about = f"{rows[0]['dtype']}; {rows[0]['machine']}."
    if fault := rows[0]["fault"]:
        about = f"**The step failed**: {fault}. {about}"
    if rows[0]["scale"] != "accelerator":
        about = f"At the scale of a CPU, {about} At full size: **not run**; {command}."
    return [*parts, about, "\n".join(lines)]


def throughput_rows(records: Records) -> list[Record]:
    summary = records.read("reports/validation/summary.json") or {}
    system = records.read("reports/validation/system.json") or {}
    step = summary.get("GPU-03", {})
    numbers = dict(step.get("numbers", {}))
    dtype = numbers.pop("dtype", "")
    rows = []
    for name, speeds in numbers.items():
        base, tokens = name.split()
        date = step.get("date") or system.get("date", "")
        about = {"timestamp": date, "base": base, "batch_tokens": int(tokens)}
        about |= {"scale": step["scale"], "machine": step.get("machine") or said_of(system)}
        about |= {"fault": "" if step["passed"] else step["said"]}
        rows.append({**about, "dtype": dtype, **speeds})
    return rows


def memory(records: Records) -> list[str]:
    """BMRK-03, from the memory that XLA says the steps of the benchmarks need."""
    parts = ["## BMRK-03: memory of a train step"]
    rows = memory_rows(records)
    if not rows:
        return [*parts, "**Not run.** `python tools/bench.py step-memory`"]
    lines = [
        "| base | tokens a step | dtype | | program MB | ms a step | peak MB of the allocator |",
        "|---|---:|---|---|---:|---:|---:|",
    ]
    for row in rows:
        cells = (
            f"{row['base']} {row['d_model']}/{row['n_layers']}, {row['device']}",
            f"{row['batch_tokens']:,}",
            row["amp"],
            row["what"],
            f"{row['max_memory_mb']:,.1f}",
            f"{1e3 * row['elapsed_s']:,.1f}" if "elapsed_s" in row else "",
            f"{row['allocated_mb']:,.1f}" if "allocated_mb" in row else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    dates = ", ".join(sorted({row["timestamp"] for row in rows}))
    about = f"What XLA says that the compiled step takes on its device, {dates}."
    if all(row["device"] == "cpu" for row in rows):
        about += " What the allocator of a GPU reports: **not run**; `tools/gpu_bench.sh 3` (B9)."
    return [*parts, about, "\n".join(lines)]


def memory_rows(records: Records) -> list[Record]:
    """Of each record of a step's memory that is there, a row a variant."""
    rows = []
    for path in MEMORY:
        if record := records.read(f"reports/performance/{path}.json"):
            about = _measured(record)
            rows += [
                about | _memory_row(*row, about["device"]) for row in record["results"].items()
            ]
    return rows


def _measured(record: Record) -> Record:
    sizes = record["config"]["sizes"][record["config"]["config"]]
    return {
        "timestamp": record["date"],
        "device": record["device"],
        "base": "respsann",
        "d_model": sizes["d_model"],
        "n_layers": sizes["n_layers"],
        "batch_tokens": sizes["batch"] * sizes["length"],
        "amp": record["config"]["dtype"],
    }


def _memory_row(what: str, row: Record, device: str) -> Record:
    found = {
        "what": what,
        "grad_checkpoint": "remat" in what and "none" not in what,
        "max_memory_mb": round(row["program_bytes"] / 1e6, 1),
    }
    if "loss" in row:
        found["loss"] = row["loss"]
    if "median_s" in row:
        found["elapsed_s"] = row["median_s"]
    if device != "cpu" and "peak_bytes" in row:
        found["allocated_mb"] = round(row["peak_bytes"] / 1e6, 1)
    return found


def write_plan(records: Records, folder: Path) -> None:
    """throughput.csv and memory.json, with the names of the benchmark plan."""
    folder.mkdir(parents=True, exist_ok=True)
    if rows := throughput_rows(records):
        out = io.StringIO()
        named = [{**row, "tokens_per_s": round(row["train_tokens_per_s"], 1)} for row in rows]
        columns = ("timestamp", "base", "batch_tokens", "tokens_per_s", "dtype")
        writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(named)
        (folder / "throughput.csv").write_text(out.getvalue())
    if rows := memory_rows(records):
        (folder / "memory.json").write_text(json.dumps(rows, indent=1) + "\n")
