"""Writes docs/results.md from experiments and reports: `python tools/results_page.py`.

Every number on the page is one of a record, or of the README of an experiment, whose question and
result are taken over. What was not run is marked so, with the command that will. It also writes the
tables of the benchmark plan that follow from other records: throughput.csv and memory.json.
"""

from pathlib import Path
import re

import claims
import compare_tokenizers
from performance_page import by_hand
from results_plan import memory, throughput, write_plan

from psann_jax.run.figures import said_of

ROOT = Path(__file__).parents[1]
PAGE, PLAN = Path("docs/results.md"), Path("reports/plan")
TEXT = "TEXT=path/to/tiny_books.txt.xz"
SWEEPS = {  # the results of a sweep, below experiments/ -> its file
    "sine/results": "sine/sweep.py",
    "sine/start": "sine/start.py",
    "bases/results": "bases/sweep.py",
    "bases/equal_time": "bases/equal_time.py",
    "waves/results": "waves/sweep.py",
    "tokenizers/results": "tokenizers/sweep.py",
    "tiny_corpus/one_pass": "tiny_corpus/one_pass.py",
}
HEAD = """# Results

What the claims about sine networks come to when they are run again, on real text, with seeds and
intervals. `tools/results_page.py` writes this page from what lies in [experiments](../experiments)
and [reports](../reports); speeds beside other programs are in [performance.md](performance.md).

The text of the runs is `tiny_books.txt.xz`, 52 MB of public-domain books, a line a paragraph
(14,043,932 bytes, SHA-256 5a30160d12c37cfa...). It is not part of this project, and another text
gives other figures. Bits per byte are the figure to compare, as no tokenizer changes them. A
sweep's models have 0.84 M parameters and see 2 M tokens (its config:
[configs/ablation.py](../configs/ablation.py); with tokenizers 0.5 to 2.0 M parameters, on the whole
of the books 7.6 M), so that they can be run again on a laptop: they say which of two is better at
that size, and not what either comes to at another. ± is the 95 % interval of Student's t over the
seeds, p that of the paired t-test against the variant named above it. Seeds draw the weights; text,
split and order are those of all runs, and the figure is that of the first 65,536 tokens of a
hundredth of the text that was held out (with tokenizers: of all of it; on the whole of the books:
of all of a fiftieth).
"""


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
    readme = records.root / "experiments" / Path(file).parent / "README.md"
    label = "Result" if results.endswith("/results") else f"Result of {Path(file).name}"
    parts += [said for said in [readme_result(readme, label)] if said]
    where = "; ".join(dict.fromkeys(map(said_of, found["machines"])))
    texts = ", ".join(text["train_sha256"][:8] for text in found["texts"])
    seeds = sorted({run["seed"] for run in found["runs"]})
    runs = f"{len(found['runs'])} runs, seeds {', '.join(map(str, seeds))}"
    folder = f"../experiments/{results}"
    parts.append(
        f"{command}: {runs}; {where}; digest of the rows {texts}. [Each run]({folder}/runs), with "
        "its config."
    )
    parts.append((records.root / "experiments" / results / "leaderboard.md").read_text().strip())
    return [*parts, f"![mean and interval of each variant]({folder}/means.png)"]


def readme_result(readme: Path, label: str) -> str:
    """The paragraph of an experiment's README behind a label, its links made from the page."""
    if not readme.exists():
        return ""
    found = re.search(
        rf"\*\*{re.escape(label)}\.\*\* (.*?)(?:\n\n|\Z)", readme.read_text(), re.DOTALL
    )
    here = f"](../experiments/{readme.parent.name}/"
    return re.sub(r"\]\((?!\w+://)", here, found[1].strip()) if found else ""


def tiny_corpus(records: claims.Records) -> list[str]:
    """BMRK-01: WaveResNet on 52 MB of books, and the modern transformer beside it."""
    runs = " ".join(f"runs/tiny_corpus/{name}-0" for name in ("waveresnet", "modern"))
    commands = (
        f"{TEXT} python -m psann_jax sweep experiments/tiny_corpus/sweep.py "
        "--report experiments/tiny_corpus/results\n"
        f"python -m psann_jax plot {runs} --out reports/tiny_corpus"
    )
    parts = ["## BMRK-01: two passes over 52 MB of books", f"```bash\n{commands}\n```"]
    folder = records.root / "reports" / "tiny_corpus"
    if not (folder / "report.md").exists():
        return [*parts, "**Not run.**"]
    result = readme_result(records.root / "experiments" / "tiny_corpus" / "README.md", "Result")
    names = sorted(path.parent.name for path in folder.glob("*/config_used.json"))
    configs = (f"[{name}](../reports/tiny_corpus/{name}/config_used.json)" for name in names)
    parts += [said for said in [result] if said]
    parts += [(folder / "report.md").read_text().strip(), f"Their configs: {', '.join(configs)}."]
    return [*parts, "![losses and bits per byte over tokens](../reports/tiny_corpus/curves.png)"]


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
        f"`python tools/bench.py {found['command']}`: {sizes['batch']} prompts of "
        f"{sizes['length']} tokens, "
        f"{found['config']['new_tokens']} new ones, {found['config']['base']} {sizes['d_model']}/"
        f"{sizes['n_layers']}/{sizes['n_heads']}, {found['config']['dtype']}; {found['date']}, "
        f"{found['processor']}. Without a cache a row is read up to the next multiple of 16. "
        f"Both choose the same token in {found['same_tokens']:.1%} of all. The original's ratio of "
        "13.5 compares a cached batch with rows one by one."
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
    mine = {"tiny_corpus", *(Path(file).parent.name for file in SWEEPS.values())}
    parts = ["## Other experiments"]
    for readme in sorted((root / "experiments").glob("*/README.md")):
        name = readme.parent.name
        if name not in mine:
            title = readme.read_text().splitlines()[0].removeprefix("# ")
            link = f"**[{title}](../experiments/{name}/README.md).**"
            parts.append(f"{link} {readme_result(readme, 'Result')}".rstrip())
    return parts if parts[1:] else []


def main() -> None:
    path = ROOT / PAGE
    before = path.read_text() if path.exists() else ""
    path.write_text(page(ROOT, before))
    write_plan(claims.Records(ROOT), ROOT / PLAN)


if __name__ == "__main__":
    main()
