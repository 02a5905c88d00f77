"""Names that the drivers still import; gone once they are rebuilt."""

import base64
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Page:
    """Draw figures into a folder, embed them, and keep which there are."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.drawn = folder, set[str]()

    def figure(self, name: str, alt: str, caption: str, plot: Callable[..., None], *values: Any) -> str:
        """Return a figure with its caption, which `plot` draws from values into the PNG file it is given first."""
        path = self.folder / f"{name}.png"
        plot(path, *values)
        self.drawn.add(path.name)
        picture = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}">'
        box = f'<div class="panel" role="region" tabindex="0" aria-label="{html.escape(alt)}">{image}</div>'
        return f"<figure>{box}<figcaption>{html.escape(caption)}</figcaption></figure>"
