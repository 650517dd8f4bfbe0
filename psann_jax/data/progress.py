"""How far a preparation is: a bar on a terminal, nothing elsewhere."""

from collections.abc import Iterable, Iterator
import sys
from typing import TypeVar

from psann_jax.data.source import Document

Item = TypeVar("Item")


def tracked(
    documents: Iterable[Document], lengths: list[int], label: str, shown: bool
) -> Iterator[Document]:
    """Passes documents on and moves a bar on stderr by their lengths, in bytes."""
    if not (shown and sys.stderr.isatty()):
        yield from documents
        return
    from rich import console, progress

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=sum(lengths))
        for document, length in zip(documents, lengths, strict=False):
            yield document
            bar.advance(task, length)
