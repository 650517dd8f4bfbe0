"""sweep: run a grid of variants and seeds, and compare them."""

import argparse
from collections.abc import Sequence
import dataclasses
import os
from pathlib import Path
import runpy
import sys
from typing import TYPE_CHECKING, Any

from psann_jax.cli.exits import exit_code
from psann_jax.cli.sweep_processes import STOPPED, end_with, run_in_processes
from psann_jax.cli.user_file import in_user_file
from psann_jax.fields import local_path
from psann_jax.run.stop import MachineFailed, Preempted, StopSignal

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
    parser.add_argument(
        "--report",
        metavar="FOLDER",
        help="where tables, pictures and figures of each run go (default: the sweep's folder)",
    )
    # Of a process of --parallel: its VARIANT-SEED, and the process that started it.
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    return exit_code(lambda: _stoppable(args))


def _stoppable(args: argparse.Namespace) -> None:
    """A signal ends the sweep at once, but a step of a run that is trained is ended and saved."""
    with StopSignal(at_once=True) as stop:
        try:
            _sweep(args, stop)
        except KeyboardInterrupt:
            raise Preempted(STOPPED, None) from None


def _sweep(args: argparse.Namespace, stop: StopSignal) -> None:
    if args.parallel < 1:
        raise ValueError(f"--parallel={args.parallel} must be at least 1")
    if args.parent:
        end_with(args.parent)
    from psann_jax.run.environment import set_up
    from psann_jax.run.sweep_text import refuse_other_text

    sweep = load_sweep(args.file, args.workdir)
    report = local_path("--report", args.report).expanduser() if args.report else None
    if report and report.exists() and not report.is_dir():
        raise ValueError(f"--report={args.report} is a file; name a folder")
    jobs = list(sweep.jobs())  # all of them are checked before the first is run
    if args.job:
        return _only_job(args.job, jobs)
    chosen = [] if args.table else _chosen(jobs, sweep, args.only)
    to_run = [job for job in chosen if job.result() is None]
    parallel = args.parallel > 1  # then the devices are left to the processes of the runs
    if to_run and not parallel:
        set_up()
    refuse_other_text(to_run, _done(jobs), sweep.metric)
    if parallel:
        failed = run_in_processes(to_run, args.parallel, lambda job: _command(args, job))
    else:
        failed = _in_turn(to_run, stop)
    _compare(sweep, _done(jobs), failed, report)
    return None


def _done(jobs: "Sequence[Job]") -> list[dict[str, Any]]:
    return [result for job in jobs if (result := job.result()) is not None]


def _compare(
    sweep: "Sweep", results: list[dict[str, Any]], failed: list[str], report: Path | None
) -> None:
    from psann_jax.run.sweep_report import write_summary

    if results:
        print(write_summary(sweep, results, report), flush=True)
    if failed:
        more = f"; and {len(failed) - 1} more" if failed[1:] else ""
        raise ValueError(f"{failed[0]}{more}; start it again to go on")
    if not results:
        raise ValueError(f"{sweep.folder} has no finished run to compare")


def load_sweep(file: str, workdir: str | None = None) -> "Sweep":
    """The sweep of a file, in another folder where one is given.

    Raises:
      ValueError: there is no such file, it cannot be run, or no get_sweep() in it gives a Sweep.
    """
    from psann_jax.run.sweep import Sweep

    if not Path(file).is_file():
        raise ValueError(f"{file}: no such file; give a Python file with get_sweep()")
    make: Any = in_user_file(file, lambda: runpy.run_path(file)).get("get_sweep")
    sweep = in_user_file(file, make) if callable(make) else None
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


def _in_turn(jobs: "Sequence[Job]", stop: StopSignal) -> list[str]:
    """Runs each job; one that fails does not keep the others from it. A line for each of these."""
    failed = []
    for n, job in enumerate(jobs, 1):
        if stop.asked:  # in the last step of the run before
            raise Preempted(STOPPED, None)
        print(f"run {n} of {len(jobs)}: {job.name}", file=sys.stderr, flush=True)
        try:
            _run_job(job)
        except MachineFailed:
            raise  # as the next one would
        except (ValueError, OSError) as error:
            failed.append(f"{job.name}: {error}")
            print(f"{failed[-1]}", file=sys.stderr, flush=True)
    return failed


def _run_job(job: "Job") -> None:
    from psann_jax.run.sweep_result import run_job

    if diverged := run_job(job)["diverged"]:
        print(f"{job.name} has diverged: {diverged}", file=sys.stderr, flush=True)


def _only_job(name: str, jobs: "Sequence[Job]") -> None:
    from psann_jax.run.environment import set_up

    found = [job for job in jobs if job.name == name]
    if not found:
        raise ValueError(f"--job={name} is none of {', '.join(job.name for job in jobs)}")
    set_up()
    _run_job(found[0])


def _command(args: argparse.Namespace, job: "Job") -> list[str]:
    imports = [f"--import={file}" for file in args.imports]
    command = [sys.executable, "-m", "psann_jax", *imports, "sweep", args.file, "--job", job.name]
    command += ["--parent", str(os.getpid())]
    return command + (["--workdir", args.workdir] if args.workdir else [])
