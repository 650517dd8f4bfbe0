"""The validation battery GPU-01 to GPU-08, on whatever is there: a GPU, a TPU, or a CPU.

    python tools/validate.py [--only GPU-03 GPU-07] [--out reports/validation]

Each step has a rule by which it passes. Written: summary.json, system.json, table.md, junit.xml;
the exit code is 1 where a step fails. With --only, other steps that the folder has stay in its
record, each with its machine; system.json is of the last start. Steps 05 and 06 need several
devices; where there is one they run in a process that takes the CPU for four, at sizes for a CPU
and in limited time.
"""

import argparse
from collections.abc import Callable, Sequence
import functools
from importlib.metadata import version
import json
import os
from pathlib import Path
import subprocess
import sys
import time
import traceback
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
_SEVERAL = ("GPU-05", "GPU-06")  # steps that need more than one device
_LIMIT = 600  # seconds of such a step on pretended devices, many times what it takes on two cores


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "validation")
    parser.add_argument(
        "--scale", choices=("tiny", "cpu", "accelerator"), help="sizes; else what fits the device"
    )
    args = parser.parse_args(argv)
    import jax
    from validation_scale import SCALES
    from validation_steps import STEPS

    from psann_jax.run.environment import describe, set_up
    from psann_jax.run.figures import said_of

    if unknown := set(args.only or ()) - STEPS.keys():
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    set_up()
    scale = args.scale or ("cpu" if jax.default_backend() == "cpu" else "accelerator")
    results, system = {}, {**describe(), "scale": scale}
    for name in args.only or STEPS:
        step, size, around = STEPS[name], scale, system
        if name in _SEVERAL and jax.device_count() == 1:
            size = "cpu" if scale == "accelerator" else scale  # of the devices that it gets
            step, around = on_fake_devices(name, step, size), system | {"device_kind": "cpu"}
        ran = {"scale": size, "machine": said_of(around), "date": system["date"]}
        results[name] = measured(step, SCALES[size]) | ran
        print(line(name, results[name]), flush=True)
    known = recorded(args.out) | results if args.only else results
    write({name: known[name] for name in STEPS if name in known}, system, args.out)
    return 0 if all(r["passed"] for r in results.values()) else 1


def measured(step: Callable[[Any], dict[str, Any]], scale: Any) -> dict[str, Any]:
    """Runs a step: what it says, whether it passed, how long it took. An error is a failure."""
    began = time.monotonic()
    try:
        result = step(scale)
    except Exception as error:  # noqa: BLE001 - one broken step does not hide the others
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        result = {"passed": False, "said": said, "trace": traceback.format_exc()}
    what = (step.__doc__ or "").splitlines()[0]
    return {"what": what, **result, "seconds": round(time.monotonic() - began, 1)}


def on_fake_devices(name: str, step: Callable, scale: str) -> Callable[[Any], dict[str, Any]]:
    """`step` in a process of its own that has four devices.

    It raises TimeoutError where that takes too long, ChildProcessError where that ends without a
    result.
    """
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from validate import measured\n"
        "from validation_scale import SCALES\nfrom validation_steps import STEPS\n"
        "print(json.dumps(measured(STEPS[sys.argv[2]], SCALES[sys.argv[3]])))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), name, scale]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "XLA_FLAGS": _quick()}

    @functools.wraps(step)
    def child(_) -> dict[str, Any]:
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=_LIMIT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"no result in {error.timeout} s") from None
        if done.returncode:
            last = (done.stderr.splitlines() or [""])[-1]
            raise ChildProcessError(f"exit code {done.returncode}: {last}\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1]) | {"devices": "4 taken from the CPU"}

    return child


def _quick() -> str:
    """Flags with which XLA compiles in a third of the time, what then runs a little slower."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    if version("jaxlib").startswith("0.10."):  # XLA ends at a flag that it does not know
        flags += " --xla_cpu_use_fusion_emitters=false"
    return flags.strip()


def line(name: str, result: dict[str, Any]) -> str:
    verdict = "passed" if result["passed"] else "FAILED"
    return f"{name} {verdict} {result['seconds']:7.1f} s  {result['said']}"


def recorded(out: Path) -> dict[str, dict[str, Any]]:
    """The results in a folder, each with its machine and date; none where there is no record."""
    from psann_jax.run.figures import said_of

    summary, system = (
        json.loads(path.read_text()) if path.exists() else {}
        for path in (out / "summary.json", out / "system.json")
    )
    around = {"machine": said_of(system), "date": system.get("date", "")}
    return {name: around | result for name, result in summary.items()}


def write(results: dict[str, dict[str, Any]], system: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(results, indent=1) + "\n")
    system = {k: v for k, v in system.items() if k != "command"}
    (out / "system.json").write_text(json.dumps(system, indent=1) + "\n")
    rows = [
        f"| {name} | {r['what']} | {r['scale']} | {'passed' if r['passed'] else '**failed**'} "
        f"| {r['said']} | {r['seconds']} | {r.get('machine', '')} |"
        for name, r in results.items()
    ]
    head = "| step | what | scale | verdict | figures | seconds | machine |\n" + "|---" * 7 + "|\n"
    (out / "table.md").write_text(head + "\n".join(rows) + "\n")
    suite = ElementTree.Element("testsuite", name="validation", tests=str(len(results)))
    for name, r in results.items():
        case = ElementTree.SubElement(suite, "testcase", name=name, time=str(r["seconds"]))
        if not r["passed"]:
            ElementTree.SubElement(case, "failure", message=r["said"]).text = r.get("trace", "")
    ElementTree.ElementTree(suite).write(out / "junit.xml", encoding="unicode")


if __name__ == "__main__":
    sys.exit(main())
