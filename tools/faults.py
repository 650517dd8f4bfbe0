"""Breaks what can break, many times, and counts what came out wrong.

    python tools/faults.py                    # a small share of every row, minutes
    python tools/faults.py --only kills --n 500
    python tools/faults.py --page             # docs/reliability.md from the records alone

What a trial draws is a function of the row's name and a number, so a failure can be looked at
again: --only ROW --from NUMBER --n 1; where it waits for another process, the moment differs a
little. Records are added to reports/faults/ROW.json, and never replaced.
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
_KEEP_SECONDS = 10


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


def run_row(
    name: str, row: Row, first: int, n: int, keep: Callable[[dict[str, Any]], None]
) -> None:
    """Runs trials `first` to `first + n` of a row; their record so far goes to `keep` now and then.

    A row that is stopped has lost no failure, and few of the trials that passed.
    """
    failures: list[dict[str, Any]] = []
    began = kept = time.monotonic()
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
            now = time.monotonic()
            if wrong or now > kept + _KEEP_SECONDS or number == first + n - 1:
                kept = now
                keep(
                    {
                        "first": first,
                        "n": number + 1 - first,
                        "failures": failures,
                        "seconds": round(now - began, 1),
                        "date": datetime.date.today().isoformat(),
                    }
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def about(row: Row) -> dict[str, Any]:
    """What a row's records are of."""
    return {"fault": row.fault, "passes": row.passes, "full": row.full}


def adding(name: str, row: Row, folder: Path) -> Callable[[dict[str, Any]], None]:
    """Adds a record to those of a row; called again it replaces the one that it added."""
    from psann_jax.run.environment import PACKAGES, _version, code_digest

    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text())["records"] if path.exists() else []
    versions = {package: _version(package) for package in PACKAGES}
    made = {"versions": versions, "cpus": os.cpu_count(), "code": code_digest()}

    def keep(record: dict[str, Any]) -> None:
        part = path.with_suffix(".part")
        part.write_text(
            json.dumps({"records": [*before, {**record, **made}], **about(row)}, indent=1) + "\n"
        )
        part.rename(path)

    return keep


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows alone")
    parser.add_argument("--n", type=int, help="trials of each row; else the small share")
    parser.add_argument("--from", dest="first", type=int, help="number of the first trial")
    parser.add_argument("--out", type=Path, default=REPORTS)
    parser.add_argument("--page", action="store_true", help="only write docs/reliability.md")
    args = parser.parse_args(argv)
    if args.n is not None and args.n < 1:
        parser.error(f"--n={args.n} must be at least 1")
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
        run_row(name, row, first, n, adding(name, row, args.out))

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
