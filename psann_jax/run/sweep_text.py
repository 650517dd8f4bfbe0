"""Whether the runs of a sweep are trained on one text: it may be edited between two starts.

Variants may differ in how they read it; those that read it alike must find the same rows.
"""

from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from psann_jax.config import to_json
from psann_jax.data import CorpusMeta, prepare
from psann_jax.run.beginning import identity
from psann_jax.run.figures import EVALUATED
from psann_jax.run.sweep import Job
from psann_jax.run.sweep_result import Result

_FREE = ("cache_dir", "order")  # settings of data that change no row


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a run is trained on: its settings of data, and digests of the rows these gave."""

    name: str
    settings: str
    digests: dict[str, str]


def refuse_mixed_text(seen: Sequence[Seen]) -> None:
    """Raises ValueError where the same settings gave two runs different rows."""
    first: dict[str, Seen] = {}
    for one in seen:
        other = first.setdefault(one.settings, one)
        if one.digests != other.digests:
            raise ValueError(
                f"the text of data.sources has changed between the runs {other.name} and "
                f"{one.name}; bring it back, or choose another --workdir"
            )


def refuse_other_text(jobs: Sequence[Job], results: Sequence[Result], metric: str) -> None:
    """Looks at the text of the jobs before the first of them is run. Touches no device.

    Raises:
      ValueError: it is not that of the results, has no validation part for the metric, or cannot
        be read.
    """
    found = [seen_by(result) for result in results]
    corpora: dict[str, CorpusMeta] = {}
    for job in jobs:
        settings = _settings(json.loads(to_json(job.config))["data"])
        if settings not in corpora:
            corpora[settings] = prepare(job.config.data).meta
        meta = corpora[settings]
        if metric in EVALUATED and meta.val is None:
            raise ValueError(
                f"metric={metric!r} needs validation text, and that of {job.name} is a single "
                "document; give several, or data.document='auto'"
            )
        found.append(Seen(job.name, settings, _digests(meta)))
    refuse_mixed_text(found)


def seen_by(result: Result) -> Seen:
    """What a finished run was trained on."""
    name = f"{result['variant']}-{result['seed']}"
    return Seen(name, _settings(result["config"]["data"]), result["data"])


def _settings(data: dict[str, Any]) -> str:
    return json.dumps({name: data[name] for name in data if name not in _FREE})


def _digests(meta: CorpusMeta) -> dict[str, str]:
    """As data.json of a workdir has them."""
    return {name: str(of) for name, of in identity(meta).items() if name.endswith("_sha256")}
