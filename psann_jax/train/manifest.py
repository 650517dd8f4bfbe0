"""The manifest of a checkpoint's step: size and SHA-256 of each file, written when all are there.

A step counts only with a manifest that matches every file, since Orbax restores flipped bytes
without a word and offers a damaged newest step.
"""

import hashlib
import json
from pathlib import Path

MANIFEST = "MANIFEST.json"
UNREADABLE = "a file of it cannot be read"  # now; it may be whole


def seal(step: Path) -> None:
    """Commits a finished step: writes the manifest of its files, whole or not at all."""
    partial = step / (MANIFEST + ".part")
    partial.write_text(json.dumps(_sums(step), indent=1))
    partial.rename(step / MANIFEST)


def damage(step: Path) -> str | None:
    """What is wrong with a step's files, in words; None when each matches its manifest."""
    expected = _read(step)
    if expected is None:
        return f"{step / MANIFEST} is missing or unreadable, so the save was not finished"
    try:
        found = _sums(step)
    except OSError as error:
        return f"{UNREADABLE}: {error}"
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            what = "is missing" if name not in found else "is not as it was saved"
            return f"{step / name} {what}"
    return None


def sealed(step: Path, name: str) -> bytes | None:
    """The content of one file of a step; None where it is not as the manifest has it."""
    try:
        content = (step / name).read_bytes()
    except OSError:
        return None
    digest = hashlib.sha256(content).hexdigest()
    return content if (_read(step) or {}).get(name) == [len(content), digest] else None


def _read(step: Path) -> dict[str, list] | None:
    try:
        return dict(json.loads((step / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _sums(step: Path) -> dict[str, list]:
    files = (p for p in sorted(step.rglob("*")) if p.is_file() and MANIFEST not in p.name)
    return {str(p.relative_to(step)): [p.stat().st_size, _sha256(p)] for p in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
