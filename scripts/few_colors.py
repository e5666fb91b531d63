"""Pictures for the documents: figures in few colours, which PNG packs well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from congested.io.files import atomic_path


def save_in_few_colors(figure: Figure, file: Path, dpi: float, levels: int) -> None:
    """Write a figure as PNG, in one step, with so many levels of each colour."""
    figure.set_dpi(dpi)
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    _save(np.asarray(canvas.buffer_rgba())[..., :3], file, levels)


def copy_in_few_colors(picture: Path, file: Path, width: int, levels: int) -> None:
    """Write a picture again as PNG, so many pixels wide, with so many levels of each colour."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    height = round(image.height * width / image.width)
    _save(np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)), file, levels)


def _save(colors: npt.NDArray[np.uint8], file: Path, levels: int) -> None:
    rounded = np.rint(np.rint(colors * (levels / 255.0)) * (255.0 / levels)).astype(np.uint8)
    with atomic_path(file) as partial:
        Image.fromarray(rounded).save(partial, format="PNG", optimize=True)
