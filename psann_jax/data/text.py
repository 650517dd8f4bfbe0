"""Text as bytes, and long text as pieces."""

from collections.abc import Iterator


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
