"""Files that appear whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """The path to write to instead; it takes the place of `path` at the end, if all went well.

    Raises:
      ValueError: the file cannot be written; names it.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except (OSError, SafetensorError) as error:  # how safetensors says that a disk is full
        raise ValueError(f"{path} cannot be written: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
