"""What pictures share: an empty matplotlib figure without display or state, and line styles."""

from pathlib import Path
from typing import Any

_DASHES = ("-", "--", ":", "-.")


def line_style(i: int) -> dict[str, str]:
    """How line i is told from others in black and white: dashes, then a lighter grey."""
    return {"linestyle": _DASHES[i % 4], "color": str(0.2 * (i // 4 % 4))}


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
