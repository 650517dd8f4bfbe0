"""Python files of the user: run, with what they raise as one line."""

from collections.abc import Callable
import importlib.util
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
        frames = traceback.extract_tb(error.__traceback__)
        where = [f", line {frame.lineno}" for frame in frames if frame.filename == file] or [""]
        said = " ".join(str(error).split())
        raise ValueError(f"{file}{where[-1]}: {type(error).__name__}: {said}") from None


def import_file(file: str) -> None:
    """Imports a file for what it registers, as a module whose name no other has.

    Raises:
      ValueError: there is no such file, or it cannot be run.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"--import={file}: no such file; give a Python file that registers a base")
    name = f"psann_jax_import_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"--import={file} is no Python file; its name must end in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    in_user_file(file, lambda: spec.loader.exec_module(module))
