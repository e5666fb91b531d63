"""Pictures for the documents: figures in few colours, which PNG packs well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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
    colors = np.asarray(canvas.buffer_rgba())[..., :3]
    rounded = np.rint(np.rint(colors * (levels / 255.0)) * (255.0 / levels)).astype(np.uint8)
    with atomic_path(file) as partial:
        Image.fromarray(rounded).save(partial, format="PNG", optimize=True)
