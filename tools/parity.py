"""How far psann_jax is from psannlm 2.0.1: `.venv/bin/python tools/parity.py`.

Computes every case of the reference data, prints a line each, and writes all of it to --out.
Exits with 1 if a difference exceeds its tolerance.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import datetime
import importlib.metadata
from pathlib import Path
import sys

import jax
import numpy as np
import reference
from reference import Reference, Results
from timing import machine

from psann_jax.run.environment import use_compile_cache

ROOT = Path(__file__).parent.parent
LARGEST = "of the largest"
_REASONS = {
    "sgrpsann": "its spectral gate filters the last k_fft tokens as one window, later ones too",
    "waveresnet": "its convolution pads both sides, so a token reads those after it",
}
_OTHERS = [
    ("top-p", "drops the token that crosses p; here it stays, as in arXiv 1904.09751"),
    ("rows", "loses a last window that fits exactly, and short texts; here both are rows"),
    ("validation", "shuffles the documents; here a split has long and short ones in equal shares"),
    ("defaults", "leaves the wave of waveresnet out unless asked; here it is interleaved"),
    (
        "schedule",
        "warms up for 2,000 steps and ends at a rate of 0; here 5 % of the steps, and a tenth",
    ),
    ("weight decay", "decays every parameter; here matrices alone"),
    (
        "repetition penalty",
        "subtracts it for each occurrence; here logits are divided or multiplied, as in "
        "arXiv 1909.05858",
    ),
    ("sampling", "draws from the process's generator; here `seed` decides, 0 unless given"),
    ("generated text", "may lose the space that begins it; here it is as it follows the prompt"),
    ("checkpoints", "writes to runs/lm/exp unasked; here to checkpoint_dir alone"),
]


@dataclasses.dataclass(frozen=True)
class Check:
    """One difference; `worst` is of all elements, absolute unless `what` says otherwise."""

    case: str
    what: str
    worst: float
    tolerance: float

    @property
    def passes(self) -> bool:
        return self.worst <= self.tolerance  # not of a NaN


def absolute(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two arrays of one shape; equal infinities have none."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"ours is {ours.shape}, the reference {theirs.shape}")
    apart = np.subtract(ours, theirs, where=ours != theirs, out=np.zeros(ours.shape))
    return float(np.max(np.abs(apart)))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """`absolute`, over the largest number of the reference or 1."""
    return absolute(ours, theirs) / max(1.0, float(np.max(np.abs(theirs))))


def of_all(ours: Results, theirs: Results, difference=absolute) -> float:
    """The worst difference over all arrays of the reference."""
    return float(np.max([difference(ours[name], a) for name, a in theirs.items()]))


def check_model(given: Reference) -> Iterator[Check]:
    ours, name = reference.of_model(given), given.case["name"]
    yield Check(name, "logits", absolute(ours["logits"], given.arrays["logits"]), 5e-5)
    yield Check(name, "loss", absolute(ours["loss"], given.arrays["loss"]), 1e-5)
    theirs = {f"g/{k}": g for k, g in given.group("g/").items()}
    largest = max(np.abs(g).max() for g in theirs.values())
    yield Check(name, f"gradients, {LARGEST}", of_all(ours, theirs) / largest, 1e-4)
    frozen = {k for k in ours if k.startswith("g/")} - theirs.keys()
    if frozen:
        none = {k: np.zeros(np.shape(ours[k])) for k in frozen}
        yield Check(name, "gradients of what is frozen or unused", of_all(ours, none), 0.0)


def check_training(given: Reference) -> Iterator[Check]:
    ours, name = reference.of_training(given), given.case["name"]
    yield Check(name, "losses of 4 updates", of_all(ours, {"losses": given.case["losses"]}), 1e-4)
    norms = given.arrays["grad_norms_before_clip"]
    worst = float(np.max(np.abs(ours["grad_norms_before_clip"] / norms - 1)))
    yield Check(name, "gradient norms, relative", worst, 1e-4)
    weights = {f"w1/{k}": w for k, w in given.group("w1/").items()}
    yield Check(name, "weights after 4 updates", of_all(ours, weights), 1e-4)


def check_sine(given: Reference) -> Iterator[Check]:
    ours, name = reference.of_sine(given), given.case["name"]
    for what, names, tolerance in (
        ("sine", ["y"], 5e-6),
        ("gradient of the input", ["g_z"], 1e-5),
        ("gradients of A, f, d", ["g_A", "g_f", "g_d"], 1e-5),
        ("raw A, f, d at the start", ["init_A", "init_f", "init_d"], 1e-5),
    ):
        theirs = {n: given.arrays[n] for n in names}
        yield Check(name, f"{what}, {LARGEST}", of_all(ours, theirs, relative), tolerance)


def check_parts(given: Reference) -> Iterator[Check]:
    ours, name = reference.of_parts(given), given.case["name"]
    for what, prefix, tolerance in (
        ("ALiBi slopes, 1 to 17 heads", "alibi_slopes", 1e-6),
        ("ALiBi biases", "alibi_bias", 1e-5),
        ("RoPE", "rope", 5e-6),
        ("sinusoidal positions", "sinusoidal", 5e-6),
        ("RMSNorm", "rmsnorm", 1e-6),
        ("cross-entropy, smoothed too", "ce", 5e-6),
        ("what top-k keeps", "sampling", 0.0),
    ):
        theirs = {n: given.arrays[n] for n in ours if n.startswith(prefix)}
        yield Check(name, what, of_all(ours, theirs), tolerance)


def check_schedules(given: Reference) -> Iterator[Check]:
    for case in given.arrays:
        what = f"{case['warmup_steps']} of {case['total_steps']} steps, of the peak"
        worst = absolute(reference.of_schedule(case), reference.rates_given(case)) / case["lr"]
        yield Check(given.case["name"], what, worst, 1e-6)


def check_packing(given: Reference) -> Iterator[Check]:
    for case in given.arrays["packing"]:
        rows = iter(reference.of_packing(given.arrays["encoded"], case))
        missing = sum(row not in rows for row in case["examples"])  # in this order
        kind = "packed" if case["pack_sequences"] else "unpacked"
        what = f"{kind} rows of {case['max_length']} that are not among ours"
        yield Check(given.case["name"], what, missing, 0)


CHECKS: dict[str, Callable[[Reference], Iterator[Check]]] = {
    "model": check_model,
    "train_steps": check_training,
    "sine": check_sine,
    "aux": check_parts,
    "lr_schedule": check_schedules,
    "data": check_packing,
}


def run(golden: Path) -> list[Check]:
    """Every check of a folder's cases, each said as it is done."""
    done = []
    for case in reference.manifest(golden)["cases"]:
        if not reference.is_matched(case):
            continue
        for check in CHECKS[case["type"]](reference.load(golden, case)):
            said = "ok" if check.passes else f"FAILED, above {check.tolerance:g}"
            print(f"{check.case}: {check.what}: {_number(check.worst)} {said}", flush=True)
            done.append(check)
    return done


def page(golden: Path, checks: list[Check]) -> str:
    """The checks as a page of Markdown."""
    failed = sum(not check.passes for check in checks)
    n_cases = len({check.case for check in checks})
    lines = [
        "# Parity with psannlm 2.0.1",
        "",
        f"{len(checks)} checks of {n_cases} cases: "
        + (f"**{failed} fail**." if failed else "all pass."),
        "",
        "`.venv/bin/python tools/parity.py` computes this page anew. A case holds weights, inputs",
        "and results of the original on a CPU; a difference is the largest over all elements. The",
        "models named `_causal` are the original with its convolution padded on the left, or its",
        "spectral gate as causal taps: what is made of the same weights here.",
        "",
        *_about(golden),
        "",
        "| case | what | worst difference | tolerance | |",
        "|---|---|---|---|---|",
        *(
            f"| {c.case} | {c.what} | {_number(c.worst)} | {_number(c.tolerance)} "
            f"| {'pass' if c.passes else '**FAIL**'} |"
            for c in checks
        ),
        "",
        *_not_matched(golden),
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.1e}".replace(".0e", "e") if value else "0"


def _about(golden: Path) -> list[str]:
    theirs, here = reference.manifest(golden), machine()
    ours = {name: importlib.metadata.version(name) for name in ("psann_jax", "jaxlib", "numpy")}
    versions = ", ".join(f"{k} {v}" for k, v in {**ours, **here["versions"]}.items())
    return [
        f"- {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {here['device']}, {here['processor']}",
        f"- here: {versions}",
        f"- there: psannlm {theirs['psannlm']}, psann {theirs['psann']}, torch {theirs['torch']}",
    ]


def _not_matched(golden: Path) -> list[str]:
    """What the original computes and we do not, on purpose."""
    models = [
        case for case in reference.manifest(golden)["cases"] if not reference.is_matched(case)
    ]
    return [
        "## Not matched on purpose",
        "",
        "These let a token read the ones after it: training copies what it should predict, and",
        "decoding is another function. The leak is how far a token moved the logits before it.",
        "",
        "| case | why | leak |",
        "|---|---|---|",
        *(
            f"| {c['name']} | {_REASONS[c['base']]} | {c['future_leak_max_abs']:.2g} |"
            for c in models
        ),
        "",
        *(f"- {what}: the original {why}." for what, why in _OTHERS),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=Path, default=ROOT / "tests" / "golden" / "psannlm")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "parity.md")
    args = parser.parse_args(argv)
    use_compile_cache()
    with jax.default_matmul_precision("highest"):  # accelerators round products otherwise
        checks = run(args.golden)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(args.golden, checks))
    failed = [check for check in checks if not check.passes]
    print(f"{len(checks)} checks, {len(failed)} failed; {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
