"""Breaks what can break, many times, and counts what came out wrong.

    python tools/faults.py                    # a small share of every row, minutes
    python tools/faults.py --only kill --n 500
    python tools/faults.py --page             # docs/reliability.md from the records alone

A trial is a function of the row's name and a number, so a failure can be looked at again:
--only ROW --from NUMBER --n 1. Records are added to reports/faults/ROW.json, and never replaced.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import datetime
import json
import os
from pathlib import Path
import shutil
import sys
import tempfile
import time
import traceback
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports" / "faults"


@dataclasses.dataclass(frozen=True)
class Row:
    """A kind of fault.

    Attributes:
      fault, passes: what is done, and what must come of it, in words.
      full, share: trials of the whole matrix, and of the small share.
      prepare: makes, in an empty folder, what the trials begin with.
      trial: (what was prepared, random generator, empty folder) -> None, or what came out wrong.
    """

    fault: str
    passes: str
    full: int
    share: int
    prepare: Callable[[Path], Any]
    trial: Callable[[Any, np.random.Generator, Path], str | None]


def rows() -> dict[str, Row]:
    """The matrix."""
    import fault_files
    import fault_inputs
    import fault_processes
    import fault_runs

    parts = fault_runs, fault_processes, fault_files, fault_inputs
    return {name: row for part in parts for name, row in part.ROWS.items()}


def run_row(name: str, row: Row, first: int, n: int) -> dict[str, Any]:
    """Runs trials `first` to `first + n` of a row, and gives their record."""
    failures, began = [], time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{name}-"))
    try:
        prepared = row.prepare(_empty(folder / "prepared"))
        for number in range(first, first + n):
            generator = np.random.default_rng([number, *name.encode()])
            trial = _empty(folder / "trial")
            try:
                wrong = row.trial(prepared, generator, trial)
            except Exception:  # noqa: BLE001 - whatever it is, the trial failed
                wrong = traceback.format_exc(limit=-3)
            if wrong:
                failures.append({"trial": number, "said": wrong})
                print(f"{name} {number}: {wrong}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "first": first,
        "n": n,
        "failures": failures,
        "seconds": round(time.monotonic() - began, 1),
        "date": datetime.date.today().isoformat(),
    }


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def forked(work: Callable[[], Any]) -> None:
    """Runs `work` in a process of its own, so that this one never holds a device."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError(f"the row ended with status {status}")
        return
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a child must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def add_record(name: str, row: Row, record: dict[str, Any], folder: Path) -> None:
    from psann_jax.run.environment import PACKAGES, _version

    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {"records": []}
    versions = {package: _version(package) for package in PACKAGES}
    content |= {"fault": row.fault, "passes": row.passes, "full": row.full}
    content["records"].append({**record, "versions": versions, "cpus": os.cpu_count()})
    path.write_text(json.dumps(content, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows alone")
    parser.add_argument("--n", type=int, help="trials of each row; else the small share")
    parser.add_argument("--from", dest="first", type=int, help="number of the first trial")
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--page", action="store_true", help="only write docs/reliability.md")
    args = parser.parse_args(argv)
    from reliability_page import write_page

    bad = 0
    if not args.page:
        matrix = rows()
        if unknown := set(args.only or ()) - matrix.keys():
            parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(matrix)}")
        for name in args.only or matrix:
            bad += _measured(name, matrix[name], args)
    if args.out == REPORTS:
        write_page(REPORTS)
    return 1 if bad else 0


def _measured(name: str, row: Row, args: argparse.Namespace) -> int:
    """Runs a row in a process of its own, prints its line, and gives the failures."""
    first = args.first if args.first is not None else _trials_so_far(args.out / f"{name}.json")
    n = args.n or row.share

    def work() -> None:
        add_record(name, row, run_row(name, row, first, n), args.out)

    forked(work)
    record = json.loads((args.out / f"{name}.json").read_text())["records"][-1]
    failed = len(record["failures"])
    print(f"{name:12} {n:6} trials {failed:4} failures {record['seconds']:8.1f} s", flush=True)
    return failed


def _trials_so_far(path: Path) -> int:
    if not path.exists():
        return 0
    return max(r["first"] + r["n"] for r in json.loads(path.read_text())["records"])


if __name__ == "__main__":
    sys.exit(main())
