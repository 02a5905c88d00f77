"""Export maps of SOC density to a model's grid: CF-NetCDF of cSoil with standard errors and realisations.

    soilcarbon export --maps results/mine/socd_0_30.tif --cell 0.5                     cells of half a degree
    soilcarbon export --maps a/socd_0_30.tif b/socd_30_100.tif --grid cSoil_MODEL.nc   two depths, on the grid of a model
    soilcarbon export --maps results/mine/socd_0_30.tif --cell 0.5 --realizations 50   and 50 equally likely maps
    soilcarbon export --maps ocs_0-30cm.tif,unit=t/ha,depth=0-30cm --cell 1 --no-uncertainty    any map of a density

Each cell has the area-weighted mean of the map's cells in it, corrected for bias as means of `soilcarbon map` are, and its standard
error by the map's error model. Depth intervals that lie on each other are added up. Writes cSoil.nc beside the first map.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from soilcarbon.commands.arguments import command_line, read_settings
from soilcarbon.io.files import UserError, check_writable, locked, sha256
from soilcarbon.io.manifest import result_set
from soilcarbon.mapping.carbon_map import CarbonMap, fields_of
from soilcarbon.settings import Settings

log = logging.getLogger(__name__)


class ExportSettings(Settings):
    """Settings of an export of maps to a model's grid."""

    maps: list[CarbonMap] = Field(
        min_length=1, description="maps of SOC density, each perhaps with ,depth=0-30cm ,unit=t/ha ,variable=BAND ,nodata=-32768"
    )
    grid: Path | None = Field(None, description="NetCDF or GeoTIFF of the model whose grid is taken [that of the map, in degrees]")
    cell: float | None = Field(None, gt=0, le=30, description="or the side of cells, degrees, counted from 180 W and 90 N")
    depth: float | None = Field(None, gt=0, description="of the soil from its surface, cm [the greatest that the maps reach]")
    years: tuple[int, int] | None = Field(None, description="first and last year the stocks are of [as the maps say]")
    covered: float = Field(0.5, gt=0, le=1, description="share of a cell's area that must have values")
    uncertainty: bool = Field(True, description="correct for bias, with standard errors by the models that made the maps")
    checkpoints: list[Path] = Field([], description="these models, one for each map [as the YAML beside each map says]")
    realizations: int = Field(0, ge=0, le=200, description="equally likely maps to draw")
    out: Path | None = Field(None, description="the file to write [cSoil.nc beside the first map]")

    @field_validator("maps", mode="before")
    @classmethod
    def _named_files(cls, given: Any) -> Any:
        if not isinstance(given, list):
            return given
        return [fields_of(str(each)) if isinstance(each, (str, Path)) else each for each in given]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.grid is not None and self.cell is not None:
            raise ValueError("the grid is that of a file (grid) or has cells of a size (cell); give one")
        if self.realizations and not self.uncertainty:
            raise ValueError("realizations are drawn from the errors of the maps, so they need uncertainty")
        if self.checkpoints and len(self.checkpoints) != len(self.maps):
            raise ValueError(f"{len(self.checkpoints)} checkpoints are given, {len(self.maps)} maps: each map has one")
        if self.years is not None and self.years[0] > self.years[1]:
            raise ValueError("years are the first and the last")
        return self


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(ExportSettings, __doc__, arguments, "soilcarbon export")
    import numpy as np  # here and below: slow to import, and --help needs none of these

    from soilcarbon.geo.model_grid import own_grid, read_model_grid, regular_grid
    from soilcarbon.mapping.common_grid import Cells
    from soilcarbon.mapping.export import dataset, layered, open_source, provenance, stocks, write

    out = settings.out or settings.maps[0].path.with_name("cSoil.nc")
    if out.suffix.lower() not in (".nc", ".nc4"):
        raise UserError(f"{out}: an export is NetCDF; give --out a name that ends in .nc")
    inputs = [*(each.path for each in settings.maps), *settings.checkpoints, *([settings.grid] if settings.grid else [])]
    if any(path.resolve() == out.resolve() for path in inputs):
        raise UserError(f"{out}: is an input and would be overwritten; give --out another name")
    checkpoints: Sequence[Path | None] = settings.checkpoints or [None] * len(settings.maps)
    sources = [open_source(each, path, settings.uncertainty) for each, path in zip(settings.maps, checkpoints, strict=True)]
    chosen = layered(sources, settings.depth)
    with Cells(chosen[0].product) as first:
        grid = read_model_grid(settings.grid) if settings.grid else None
        grid = grid or (regular_grid(settings.cell, first.grid) if settings.cell else own_grid(first.grid))
    said = [each.years for each in chosen if each.years is not None]
    years = settings.years or ((min(each[0] for each in said), max(each[1] for each in said)) if said else None)
    check_writable(out.parent)
    found = stocks(chosen, grid, settings.covered, settings.realizations)
    depth = chosen[-1].depth[1]
    files = {each.product.path.name: sha256(each.product.path) for each in chosen}
    files |= {each.model.path.name: sha256(each.model.path) for each in chosen if each.model is not None}
    facts = provenance(f"Soil organic carbon, 0-{depth:g} cm", files, command_line("soilcarbon export", arguments))
    with locked(out.parent), result_set(out.parent, f"the stocks {out.name}", [out.name]) as new:
        write(dataset(found, depth, years, facts), new / out.name)
    if years is None:
        log.info("the maps do not say of which years they are, so the file has no time; --years says it")
    known = np.isfinite(found.mean)
    carbon = float((found.mean * found.covered * grid.km2)[known].sum()) * 1e-6
    error = "" if found.deviation is None else f", standard error of a cell {np.median(found.deviation[known]):.3g} kg m-2"
    print(f"cSoil, 0-{depth:g} cm: {known.sum():,} of {known.size:,} cells, {carbon:.4g} Pg{error}\n-> {out}")
