"""Fetch a part of public or remote rasters: a window of each as a GeoTIFF.

    soilcarbon fetch --list                                            public sources: unit, cell, licence, address
    soilcarbon fetch --source copernicus-dem-90 --bounds 118.5 119.7 30.5 31.4 --out covariates
    soilcarbon fetch --source chelsa-2.1 --variables bio1 bio12 --bounds 118.5 119.7 30.5 31.4 --out covariates
    soilcarbon fetch --rasters https://example.org/dem.tif items.json#B04,B08 --bounds 8 9 46 47 --out covariates

Only the window is read, by range requests; what was read is kept in the cache with checksums, so that an interrupted run goes on,
and the same command works without a network. Rasters are addresses of GeoTIFFs (https, or s3 of public buckets), and STAC items or
item collections, in files or at addresses. `prepare` and `map` take the same addresses as --rasters.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, atomic_write, check_writable
from soilcarbon.settings import RemoteSettings, Settings


class FetchSettings(RemoteSettings, Settings):
    """Settings of fetching windows of remote rasters."""

    source: str | None = Field(None, description="a public source, as --list names it")
    variables: list[str] = Field([], description="its variables [all]")
    rasters: list[Path] = Field([], description="or addresses of GeoTIFFs, STAC items or item collections (FILE#asset,asset)")
    bounds: tuple[float, float, float, float] | None = Field(
        None, description="fetch LON_MIN LON_MAX LAT_MIN LAT_MAX, degrees (required)"
    )
    out: Path | None = Field(None, description="folder of the GeoTIFFs (required)")
    list: bool = Field(False, description="list the public sources instead")

    @model_validator(mode="after")
    def _something_to_fetch(self) -> Self:
        if self.list:
            return self
        if (self.source is None) == (not self.rasters):
            raise ValueError("give --source NAME (--list names them) or --rasters ADDRESS")
        if self.bounds is None or self.out is None:
            raise ValueError("--bounds LON_MIN LON_MAX LAT_MIN LAT_MAX and --out FOLDER are required")
        west, east, south, north = self.bounds
        if not (-180 <= west < east <= 540 and -90 <= south < north <= 90):
            raise ValueError("bounds are degrees, each lower limit below its upper limit: LON_MIN LON_MAX LAT_MIN LAT_MAX")
        return self


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--source", *arguments]
    settings = read_settings(FetchSettings, __doc__, arguments, "soilcarbon fetch")
    if settings.list:
        print(sources_table())
        return
    from soilcarbon.geo.remote import local_rasters, local_window  # here: --help needs none of it
    from soilcarbon.geo.sources import find_source, pick_variables

    bounds, out = settings.bounds, settings.out
    assert bounds is not None
    assert out is not None
    check_writable(out)
    if settings.source is not None:
        source = find_source(settings.source)
        names = pick_variables(source, settings.variables)
        made = [local_window(source.addresses(name, bounds), name, bounds, settings.cache, skip_missing=True) for name in names]
    else:
        made = local_rasters(settings.rasters, bounds, settings.cache)
    for path in made:
        copy_into(path, out)
    print(f"{len(made)} rasters -> {out}")


def copy_into(path: Path, folder: Path) -> None:
    """Copy a window into a folder; another file of its name is not replaced."""
    target = folder / path.name
    if target.exists():
        if target.read_bytes() == path.read_bytes():
            return
        raise UserError(f"{target}: is there, and is another file; move it, or choose another --out")
    with atomic_write(target) as file:
        file.write(path.read_bytes())


def sources_table() -> str:
    """Return the table of public sources as text."""
    from soilcarbon.geo.sources import SOURCES

    lines = ["Public sources. No address was tried when this list was made (no network); (check): read it at the publisher's.", ""]
    for each in SOURCES:
        lines += [
            f"{each.name}: {each.what}",
            f"  cell: {each.cell}",
            f"  unit: {each.unit}",
            f"  licence: {each.licence}",
            f"  address: {each.address}",
            f"  by hand: {each.by_hand}" if each.by_hand else f"  fetch: {_few(each.variables)}",
            "",
        ]
    return "\n".join(lines).rstrip()


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:4])} ... {names[-1]} ({len(names)} variables)"
