"""Python files of the user: run, with what they raise as one line."""

from collections.abc import Callable, Sequence
import importlib
from pathlib import Path
import sys
import traceback
from typing import Any


def in_user_file(file: str, do: Callable[[], Any]) -> Any:
    """What `do`, of a user's file, gives.

    Raises:
      ValueError: whatever it raises, as one line with its place.
    """
    try:
        return do()
    except SyntaxError as error:
        where = f"{error.filename or file}, line {error.lineno}"
        raise ValueError(f"{where}: {type(error).__name__}: {error.msg}") from None
    except Exception as error:  # noqa: BLE001 - the file is any program
        frames, path = traceback.extract_tb(error.__traceback__), Path(file).resolve()
        own = [frame for frame in frames if Path(frame.filename).resolve() == path]
        where = f", line {own[-1].lineno}" if own else ""
        said = " ".join(str(error).split())
        raise ValueError(f"{file}{where}: {type(error).__name__}: {said}") from None


def import_files(files: Sequence[str]) -> None:
    """Imports each file, as `import_file` does."""
    for file in files:
        import_file(file)


def import_file(file: str) -> None:
    """Imports a file under its own name, as `import` in its folder does.

    Raises:
      ValueError: there is no such file, it cannot be run, or another module has its name.
    """
    path = Path(file).resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(f"--import={file}: no such file; give a Python file that registers a base")
    sys.path.insert(0, str(path.parent))
    importlib.invalidate_caches()
    module = in_user_file(file, lambda: importlib.import_module(path.stem))
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise ValueError(f"--import={file}: another module is named {path.stem}; rename the file")
