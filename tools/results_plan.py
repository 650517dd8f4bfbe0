"""What of the benchmark plan follows from other records: throughput.csv and memory.json.

BMRK-02 is the validation's throughput step, BMRK-03 the memory that XLA says a train step needs.
"""

import csv
import io
import json
from pathlib import Path

from claims import Record, Records

from psann_jax.run.figures import said_of


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
        rows.append({**about, "dtype": dtype, **speeds})
    return rows


def memory(records: Records) -> list[str]:
    """BMRK-03, from the memory that XLA says the step of the small config needs."""
    parts = ["## BMRK-03: memory of a train step"]
    rows = memory_rows(records)
    if not rows:
        return [*parts, "**Not run.** `python tools/bench.py step-memory`"]
    lines = ["| | program GB | of whole logits |", "|---|---:|---:|"]
    for row in rows:
        share = row["max_memory_mb"] / rows[0]["max_memory_mb"]
        lines.append(f"| {row['what']} | {row['max_memory_mb'] / 1e3:.1f} | {share:.0%} |")
    first = rows[0]
    about = (
        f"{first['base']} {first['d_model']}/{first['n_layers']}, {first['batch_tokens']:,} tokens "
        f"a step, {first['amp']}: the figures of XLA's compiler for a CPU, {first['timestamp']}. "
        "What the allocator of a GPU reports: **not run**; `tools/gpu_bench.sh 3` (B9)."
    )
    return [*parts, about, "\n".join(lines)]


def memory_rows(records: Records) -> list[Record]:
    record = records.read("reports/performance/cpu/step-memory.json")
    if record is None:
        return []
    sizes = record["config"]["sizes"][record["config"]["config"]]
    about = {
        "timestamp": record["date"],
        "base": "respsann",
        "d_model": sizes["d_model"],
        "n_layers": sizes["n_layers"],
        "batch_tokens": sizes["batch"] * sizes["length"],
        "amp": record["config"]["dtype"],
    }
    return [
        {
            **about,
            "what": what,
            "grad_checkpoint": "remat" in what,
            "max_memory_mb": round(row["program_bytes"] / 1e6, 1),
            "loss": row["loss"],
        }
        for what, row in record["results"].items()
    ]


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
