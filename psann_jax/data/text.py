"""Text as bytes, and long text as pieces."""

from collections.abc import Iterator
import math

import numpy as np

_NEWLINE = ord("\n")


def blank(text: str) -> bool:
    """Whether there is nothing but white space."""
    return not text or text.isspace()


def utf8(text: str, name: str = "text", offset: int = 0) -> bytes:
    """UTF-8 of the text, with surrogate escapes as the bytes they stand for.

    Raises:
      ValueError: a lone surrogate that stands for no byte; `name` and `offset`, the place of the
        text in what is named, say where.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        found = ord(text[error.start])
        raise ValueError(
            f"{name} holds the lone surrogate U+{found:04X} at character {offset + error.start}, "
            "which is no text; write text.encode('utf-8', 'replace').decode() in its place"
        ) from None


def pieces(text: str, size: int) -> Iterator[str]:
    """Cuts a text into pieces of at most `size` characters, after a newline where there is one.

    Else before a space, else anywhere. Joined, the pieces are the text; an empty text has none.
    """
    start = 0
    while len(text) - start > size:
        cut = text.rfind("\n", start, start + size) + 1 or text.rfind(" ", start, start + size)
        cut = cut if cut > start else start + size
        yield text[start:cut]
        start = cut
    if start < len(text):
        yield text[start:] if start else text


def line_pieces(content: bytes, share: float) -> Iterator[str]:
    """Cuts UTF-8 after line ends into pieces of about `share` of the bytes; 2 or more lines do.

    Joined, the pieces are the text. Blank ones are part of a neighbour, so a text that is filled
    in one line alone stays whole.
    """
    ends = np.flatnonzero(np.frombuffer(content, np.uint8)[:-1] == _NEWLINE) + 1
    n = math.ceil(min(1 / share, len(ends) + 1))
    wanted = np.arange(1, n) * len(content) // n
    last_before = np.searchsorted(ends, wanted, side="right") - 1
    cuts = np.unique(ends[np.maximum(last_before, 0)]).tolist()
    joined = ""
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        piece = content[start:end].decode("utf-8", "surrogateescape")
        if not blank(joined) and not blank(piece):
            yield joined
            joined = ""
        joined += piece
    yield joined
