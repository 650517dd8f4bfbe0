"""Writes docs/results.md from experiments and reports: `python tools/results_page.py`.

Every number on the page is one of a record, or of the README of an experiment, whose question and
result are taken over. What was not run is marked so, with the command that will. It also writes the
tables of the benchmark plan that follow from other records: throughput.csv and memory.json.
"""

import csv
import io
import json
from pathlib import Path
import re
from typing import Any

import claims
import compare_tokenizers
from performance_page import by_hand

ROOT = Path(__file__).parents[1]
PAGE, PLAN = Path("docs/results.md"), Path("reports/plan")
TEXT = "TEXT=path/to/tiny_books.txt.xz"
SWEEPS = {  # the results of a sweep, below experiments/ -> its file
    "sine/results": "sine/sweep.py",
    "sine/start": "sine/start.py",
    "bases/results": "bases/sweep.py",
    "waves/results": "waves/sweep.py",
    "tokenizers/results": "tokenizers/sweep.py",
}
HEAD = """# Results

What the claims about sine networks come to when they are run again, on real text, with seeds and
intervals. `tools/results_page.py` writes this page from what lies in [experiments](../experiments)
and [reports](../reports); speeds beside other programs are in [performance.md](performance.md).

The text of the runs is 52 MB of public-domain books. Bits per byte are the figure to compare, as no
tokenizer changes them. A sweep's models have 0.84 M parameters and see 2 M tokens (its config:
[configs/ablation.py](../configs/ablation.py)), so that they can be run again on a laptop: they say
which of two is better at that size, and not what either comes to at another. ± is the 95 % interval
of Student's t over the seeds, p that of the paired t-test against the variant named above it.
"""
Record = dict[str, Any]


def page(root: Path, before: str = "") -> str:
    """The page of the records below `root`, with what is written by hand in `before`."""
    records = claims.Records(root)
    parts = [HEAD.rstrip(), by_hand("introduction", before)]
    parts += ["## The claims", claims.table(records)]
    for results, file in SWEEPS.items():
        parts += sweep_parts(records, results, file)
    for part in (tiny_corpus, throughput, memory, tokenizers, cache):
        parts += part(records)
    parts += other_experiments(root)
    return "\n\n".join(parts) + "\n"


def sweep_parts(records: claims.Records, results: str, file: str) -> list[str]:
    """Question, machine, table and picture of a sweep."""
    question = re.match(r'"""(.*?)\n', (ROOT / "experiments" / file).read_text())
    parts = [f"## {question[1] if question else file}"]
    command = (
        f"`{TEXT} python -m psann_jax sweep experiments/{file} --report experiments/{results}`"
    )
    found = records.read(f"experiments/{results}/summary.json")
    if found is None:
        return [*parts, f"**Not run.** {command}"]
    parts += [said for said in [readme_result(records.root, file, results)] if said]
    where = "; ".join(dict.fromkeys(map(_machine, found["machines"])))
    seeds = sorted({run["seed"] for run in found["runs"]})
    runs = f"{len(found['runs'])} runs, seeds {', '.join(map(str, seeds))}"
    folder = f"../experiments/{results}"
    parts.append(f"{command}: {runs}; {where}. [Each run]({folder}/runs), with its config.")
    parts.append((records.root / "experiments" / results / "leaderboard.md").read_text().strip())
    return [*parts, f"![mean and interval of each variant]({folder}/means.png)"]


def readme_result(root: Path, file: str, results: str) -> str:
    """The paragraph of an experiment's README that tells the result of this sweep."""
    readme = root / "experiments" / Path(file).parent / "README.md"
    if not readme.exists():
        return ""
    label = "Result" if results.endswith("/results") else f"Result of {Path(file).name}"
    found = re.search(
        rf"\*\*{re.escape(label)}\.\*\* (.*?)(?:\n\n|\Z)", readme.read_text(), re.DOTALL
    )
    return found[1].strip() if found else ""


def _machine(machine: Record) -> str:
    return f"{machine['date']}, {machine['processor']}, jax {machine['packages']['jax']}"


def tiny_corpus(records: claims.Records) -> list[str]:
    """BMRK-01: a run of tiny_corpus, and what it was compared with."""
    parts = ["## BMRK-01: two passes over 52 MB of books"]
    command = (
        "python -m psann_jax.main --config configs/tiny_corpus.py --config.train.epochs=2 "
        "--config.data.sources=\"('path/to/tiny_books.txt.xz',)\" --workdir runs/waveresnet"
    )
    folder = records.root / "reports/tiny_corpus"
    if not (folder / "report.md").exists():
        return [*parts, f"**Not run.** `{command}`"]
    runs = sorted(path.parent.name for path in folder.glob("*/metrics.json"))
    about = []
    for name in runs:
        found = records.read(f"reports/tiny_corpus/{name}/metrics.json") or {}
        about.append(
            f"- {name}: seed {found['seed']}, {_machine(found['machine'])}; its [config]"
            f"(../reports/tiny_corpus/{name}/config_used.json)"
        )
    parts += [f"`{command}`, then `python -m psann_jax plot runs/waveresnet`"]
    parts += ["\n".join(about), (folder / "report.md").read_text().strip()]
    return [*parts, "![losses and bits per byte over tokens](../reports/tiny_corpus/curves.png)"]


def throughput(records: claims.Records) -> list[str]:
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
    scale = f"At the scale of a CPU, {rows[0]['dtype']}; {rows[0]['timestamp']}."
    return [*parts, f"{scale} At full size: **not run**; {command}.", "\n".join(lines)]


def throughput_rows(records: claims.Records) -> list[Record]:
    summary = records.read("reports/validation/summary.json") or {}
    system = records.read("reports/validation/system.json") or {}
    numbers = dict(summary.get("GPU-03", {}).get("numbers", {}))
    dtype = numbers.pop("dtype", "")
    rows = []
    for name, speeds in numbers.items():
        base, tokens = name.split()
        about = {"timestamp": system.get("date", ""), "base": base, "batch_tokens": int(tokens)}
        rows.append({**about, "dtype": dtype, **speeds})
    return rows


def memory(records: claims.Records) -> list[str]:
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
        "What the allocator of a GPU reports: **not run**; `tools/gpu_bench.sh 1`."
    )
    return [*parts, about, "\n".join(lines)]


def memory_rows(records: claims.Records) -> list[Record]:
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


def tokenizers(records: claims.Records) -> list[str]:
    parts = ["## Tokenizers: how fast, how short, how exact"]
    found = records.read("reports/tokenizers/metrics.json")
    command = "`python tools/compare_tokenizers.py --text path/to/tiny_books.txt.xz`"
    if found is None:
        return [*parts, f"**Not run.** {command}"]
    about = (
        f"{command}: fitted on {found['fit_megabytes']:g} MB, {found['megabytes']:g} MB encoded, "
        f"median of {found['n']}; {found['date']}, {found['processor']}."
    )
    return [*parts, about, compare_tokenizers.table(found["tokenizers"])]


def cache(records: claims.Records) -> list[str]:
    parts = ["## The cache of decoding"]
    found = records.read("reports/performance/cpu/kv-cache.json")
    if found is None:
        return [*parts, "**Not run.** `python tools/bench.py kv-cache`"]
    sizes = found["config"]["sizes"][found["config"]["config"]]
    about = (
        f"`python tools/bench.py kv-cache`: {sizes['batch']} prompts of {sizes['length']} tokens, "
        f"{found['config']['new_tokens']} new ones, {found['config']['base']} {sizes['d_model']}/"
        f"{sizes['n_layers']}/{sizes['n_heads']}, float32; {found['date']}, {found['processor']}. "
        "The original's ratio of 13.5 compares a cached batch with rows one by one."
    )
    lines = ["| | seconds | tokens/s | times the cache's |", "|---|---:|---:|---:|"]
    best = found["results"]["cache"]["median_s"]
    for name, row in found["results"].items():
        ratio = row["median_s"] / best
        lines.append(
            f"| {name} | {row['median_s']:.2f} | {row['tokens_per_s']:,.1f} | {ratio:.1f} |"
        )
    return [*parts, about, "\n".join(lines)]


def other_experiments(root: Path) -> list[str]:
    """Experiments that are no sweep: the result in their README."""
    mine = {Path(file).parent.name for file in SWEEPS.values()}
    parts = ["## Other experiments"]
    for readme in sorted((root / "experiments").glob("*/README.md")):
        name = readme.parent.name
        title = readme.read_text().splitlines()[0].removeprefix("# ")
        if name not in mine:
            said = readme_result(root, f"{name}/README.md", "/results").replace(
                "](", f"](../experiments/{name}/"
            )
            parts.append(f"**[{title}](../experiments/{name}/README.md)** {said}".rstrip())
    return parts if parts[1:] else []


def write_plan(records: claims.Records, folder: Path) -> None:
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


def main() -> None:
    path = ROOT / PAGE
    before = path.read_text() if path.exists() else ""
    path.write_text(page(ROOT, before))
    write_plan(claims.Records(ROOT), ROOT / PLAN)


if __name__ == "__main__":
    main()
