"""An empty matplotlib figure, that needs no display and keeps no state."""

from pathlib import Path
from typing import Any


def empty_figure(path: Path, size: tuple[float, float]) -> Any:
    """A figure of `size` inches, to be saved as `path`.

    Raises:
      ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # of no backend
    except ImportError:
        raise ValueError(
            f"{path} is not drawn: matplotlib is not installed; pip install matplotlib"
        ) from None
    return Figure(figsize=size, layout="constrained")
