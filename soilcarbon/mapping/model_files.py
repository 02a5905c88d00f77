"""The one way in for what a map can be made with.

In: a model's file. Out: a `MapModel` of its kind.
"""

from pathlib import Path

from soilcarbon.mapping.predictor import MapModel, Statistics


def open_model(path: Path, device: str = "cpu", stats: Statistics | None = None, missing: str | None = None) -> MapModel:
    """Open a model's file: forests (*.skops) or a network.

    Parameters
    ----------
    path
        The file, perhaps a stranger's.
    device
        "cpu" or "cuda", of a network.
    stats, missing
        For a checkpoint that has none.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    if path.suffix.lower() == ".skops":
        from soilcarbon.mapping.forest import ForestModel

        return ForestModel(path)
    from soilcarbon.mapping.network import NetworkModel

    return NetworkModel(path, device, stats, missing)
