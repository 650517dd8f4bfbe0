"""sweep: run a grid of variants and seeds, and compare them."""

import argparse
from collections.abc import Callable
import dataclasses
import os
from pathlib import Path
import queue
import runpy
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from psann_jax.cli.exits import exit_code

if TYPE_CHECKING:
    from psann_jax.run.sweep import Job, Sweep


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a Python file with get_sweep(), which is run")
    parser.add_argument("--workdir", help="the sweep's folder, in place of the file's")
    parser.add_argument(
        "--only", metavar="NAME,NAME", help="these variants alone; the table has all that are done"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="N runs at once, each in a process of its own that sees one GPU, if there are any",
    )
    parser.add_argument("--table", action="store_true", help="run nothing, only compare")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # VARIANT-SEED, of a process of --parallel


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _sweep(args))


def _sweep(args: argparse.Namespace) -> None:
    if args.parallel < 1:
        raise ValueError(f"--parallel={args.parallel} must be at least 1")
    from psann_jax.run.sweep_result import run_job
    from psann_jax.run.sweep_text import refuse_other_text

    sweep = load_sweep(args.file, args.workdir)
    jobs = list(sweep.jobs())  # all of them are checked before the first is run
    chosen = [] if args.table else _chosen(jobs, sweep, args.only)
    if args.job:
        chosen = [job for job in jobs if job.name == args.job]
    chosen = [job for job in chosen if job.result() is None]
    if not args.job:
        done = [result for job in jobs if (result := job.result()) is not None]
        refuse_other_text(chosen, done, sweep.metric)
    if args.parallel > 1 and not args.job:
        _in_parallel(args, chosen)
    else:
        _in_turn(chosen, run_job)
    if args.job:
        return
    from psann_jax.run.sweep_report import write_summary

    results = [result for job in jobs if (result := job.result()) is not None]
    if not results:
        raise ValueError(f"{sweep.folder} has no finished run to compare")
    print(write_summary(sweep, results))


def load_sweep(file: str, workdir: str | None = None) -> "Sweep":
    """The sweep of a file, in another folder where one is given.

    Raises:
      ValueError: there is no such file, or no get_sweep() in it that gives a Sweep.
    """
    from psann_jax.run.sweep import Sweep

    if not Path(file).is_file():
        raise ValueError(f"{file}: no such file; give a Python file with get_sweep()")
    make: Any = runpy.run_path(file).get("get_sweep")
    sweep = make() if callable(make) else None
    if not isinstance(sweep, Sweep):
        raise ValueError(f"{file} has no function get_sweep() that returns a psann_jax Sweep")
    if workdir:
        config = dataclasses.replace(sweep.config, workdir=workdir)
        sweep = dataclasses.replace(sweep, config=config)
    return sweep


def _chosen(jobs: "list[Job]", sweep: "Sweep", only: str | None) -> "list[Job]":
    if only is None:
        return jobs
    names = only.split(",")
    if unknown := [name for name in names if name not in sweep.variants]:
        raise ValueError(f"--only={unknown[0]} is none of {', '.join(sweep.variants)}")
    return [job for job in jobs if job.variant in names]


def _in_turn(jobs: "list[Job]", run: "Callable[[Job], Any]") -> None:
    from psann_jax.run.environment import set_up

    if jobs:
        set_up()
    for n, job in enumerate(jobs, 1):
        print(f"run {n} of {len(jobs)}: {job.name}", file=sys.stderr, flush=True)
        run(job)


def _in_parallel(args: argparse.Namespace, jobs: "list[Job]") -> None:
    """One process a job, so many at once; what one of them says goes to VARIANT-SEED.log.

    Raises:
      ValueError: runs that failed, once the others are done.
    """
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    failed: list[str] = []

    def work(slot: int) -> None:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            command = [sys.executable, "-m", "psann_jax", "sweep", args.file, "--job", job.name]
            command += ["--workdir", args.workdir] if args.workdir else []
            log = Path(job.config.workdir).parent / f"{job.name}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            print(f"{job.name} begins; {log}", file=sys.stderr, flush=True)
            own = {"CUDA_VISIBLE_DEVICES": _gpu(slot)} if _gpu(slot) else {}
            with log.open("a") as said:
                done = subprocess.run(
                    command, env={**os.environ, **own}, stdout=said, stderr=subprocess.STDOUT
                )
            if done.returncode:
                lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                failed.append(f"{job.name} (exit code {done.returncode}): {lines[-1]}")

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(args.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        more = f"; and {len(failed) - 1} more" if failed[1:] else ""
        raise ValueError(f"{failed[0]}{more}; start it again to go on")


def _gpu(slot: int) -> str:
    """The GPU of a slot by its number; none where the machine shows no NVIDIA GPUs."""
    shown = [n for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n]
    shown = shown or [str(n) for n in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    return shown[slot % len(shown)] if shown else ""
