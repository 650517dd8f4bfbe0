"""Writes docs/reliability.md from reports/faults: each count on it is one of a record."""

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
_HEAD = """# Reliability

What was broken on purpose, how often, and what came of it. `python tools/faults.py` runs a small
share of every row and adds to these counts; `--only ROW --n N` runs more of one. What a trial draws
can be run again by its number. Several processes, loaded folders and bad input have tests besides.

| row | what is done | what must come of it | trials | failures |
|---|---|---|---|---|
"""
_MATRIX = """
The whole matrix asks for {full}. Run so far, by date:

"""
_TAIL = """
## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a bug: please report its traceback |
| 2 | bad input: one line says which and how to mend it |
| 3 | no finite loss any more: the line names the step, the rows and their documents |
| 74 | the machine failed in the middle of a run, a full disk for instance: start it again |
| 75 | stopped and saved: start it again to go on |

## Limits

- A checkpoint counts once the manifest with the SHA-256 of its files is written; what was done
  since then is done again. `train.save_interval_steps` bounds it.
- A `.py` config is a program, and is run. What a run and `save` leave has its config as JSON; a
  `.pt` of `export` is a pickle of plain data, which `torch.load(weights_only=True)` opens.
- The coordinator of several processes and the profiler's port ask nobody who he is: private
  networks only.
- Of several processes a dead one is noticed within {heartbeat} s at the latest; the others end, and
  `tools/launch/local_multi.py` or the JobSet of GKE starts all of them again.
- A run holds a lock on the `run.lock` of its workdir, and a second one is refused as bad input. The
  lock ends with its process, but reaches as far as the file system takes it: nowhere, to the
  processes of one host (as with mounted buckets), or too far, where an NFS server keeps that of a
  machine that died; removing the file ends it.
"""


def write_page(reports: Path, page: Path = PAGE) -> None:
    """Writes the page from every record in `reports`."""
    from psann_jax.cluster import HEARTBEAT_SECONDS

    found = _nothing_yet() | {
        p.stem: json.loads(p.read_text()) for p in sorted(reports.glob("*.json"))
    }
    text = _HEAD + "".join(_line(name, content) for name, content in found.items())
    full = ", ".join(f"{content['full']:,} of {name}" for name, content in found.items())
    text += _MATRIX.format(full=full)
    text += "".join(f"- {line}\n" for line in _history(found))
    text += _failures(found)
    page.write_text(text + _TAIL.format(heartbeat=HEARTBEAT_SECONDS))


def _nothing_yet() -> dict[str, Any]:
    """Every row of the matrix, without a record."""
    from faults import about, rows

    return {name: {"records": [], **about(row)} for name, row in rows().items()}


def _line(name: str, content: dict[str, Any]) -> str:
    numbers = {i for r in content["records"] for i in range(r["first"], r["first"] + r["n"])}
    trials = len(numbers)
    failures = sum(len(record["failures"]) for record in content["records"])
    return (
        f"| `{name}` | {content['fault']} | {content['passes']} | {trials:,} | **{failures}** |\n"
    )


def _history(found: dict[str, Any]) -> list[str]:
    return [
        f"{record['date']}: `{name}` trials {record['first']} to "
        f"{record['first'] + record['n'] - 1}, {record['seconds']:,.0f} s, "
        f"{record['cpus']} CPU cores, jax {record['versions']['jax']}"
        for name, content in found.items()
        for record in content["records"]
    ]


def _failures(found: dict[str, Any]) -> str:
    """The failed trials, the end of what each said."""
    lines = [
        f"- `{name}` {failure['trial']} ({record['date']}): {failure['said'].splitlines()[-1]}"
        for name, content in found.items()
        for record in content["records"]
        for failure in record["failures"]
    ]
    return "\n## Failures\n\n" + "\n".join(lines) + "\n" if lines else ""
