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
    try:
        if (expected := _read(step)) is None:
            return f"{step / MANIFEST} is missing or damaged, so the save was not finished"
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
        content, sums = (step / name).read_bytes(), _read(step) or {}
    except OSError:
        return None
    digest = hashlib.sha256(content).hexdigest()
    return content if sums.get(name) == [len(content), digest] else None


def _read(step: Path) -> dict[str, list] | None:
    """The sums of a manifest; None where there is none, or something else in its place.

    Raises:
      OSError: it is there, and cannot be read now.
    """
    try:
        return dict(json.loads((step / MANIFEST).read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def _sums(step: Path) -> dict[str, list]:
    files = (p for p in sorted(step.rglob("*")) if p.is_file() and MANIFEST not in p.name)
    return {str(p.relative_to(step)): [p.stat().st_size, _sha256(p)] for p in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
