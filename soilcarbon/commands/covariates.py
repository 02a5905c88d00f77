"""Make covariates from rasters: spectral indices, terrain derivatives or climate zones.

    soilcarbon covariates --bands landsat/ --scale landsat_collection_2 --out covariates/periodic
    soilcarbon covariates --bands image.tif --band_names SR_B2 SR_B4 SR_B5 SR_B6 --out covariates/indices.tif
    soilcarbon covariates --dem dem.tif --out covariates/terrain.tif
    soilcarbon covariates --climate climate/ --precipitation bio12 --temperature bio01 --out zones.tif

Bands give ndvi, bsi, evi, savi and lswi; a folder of files, or folders, named by years becomes <out>/1985-1989/indices.tif and
so on, as soilcarbon zones reads them. Elevations (m) give slope, aspect, northness, eastness and twi. Long-term precipitation and
temperature give the climate zone (1 to 4) and the weight of each zone. All is written on the grid of its own raster.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, check_writable, locked
from soilcarbon.io.manifest import result_set
from soilcarbon.settings import ClimateSettings


class CovariateSettings(ClimateSettings):
    """Settings of covariates made from rasters."""

    bands: Path | None = Field(None, description="GeoTIFF with blue, red, nir and swir1; or a folder of them, named by years")
    band_names: list[str] = Field(
        ["blue", "red", "nir", "swir1"], min_length=4, max_length=4, description="names of these four in the file, in this order"
    )
    scale: Literal["reflectance", "landsat_collection_2", "ten_thousandths"] = Field(
        "reflectance", description="scale of the stored values, where the file does not declare it"
    )
    dem: Path | None = Field(None, description="or a GeoTIFF of elevations, m")
    climate: list[Path] = Field([], description="or GeoTIFFs, or folders of them, with precipitation and temperature")
    out: Path = Field(description="GeoTIFF to write; a folder, where bands is one")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.bands is not None) + (self.dem is not None) + bool(self.climate) != 1:
            raise ValueError("give one of --bands, --dem and --climate")
        if len(set(self.band_names)) < len(self.band_names):
            raise ValueError("band_names: blue, red, nir and swir1 are four different bands")
        inputs = [path for path in (self.bands, self.dem, *self.climate) if path is not None]
        if any(self.out.resolve() == path.resolve() for path in inputs):
            raise ValueError(f"out: {self.out} is an input; choose another name")
        return self


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(CovariateSettings, __doc__, arguments, "soilcarbon covariates")
    folder, images = settings.out.parent, {settings.out.name: settings.bands or Path()}
    if settings.bands is not None and settings.bands.is_dir():
        folder, images = settings.out, _images(settings.bands)
    check_writable(folder)
    with locked(files=[settings.out]), result_set(folder, f"covariates, {settings.out.name}", images) as new:
        text = make(settings, {new / name: path for name, path in images.items()})
    print(f"{settings.out}: {text}")


def _images(folder: Path) -> dict[str, Path]:
    """Return the name of a file of indices -> image, or folder of it, for all in a folder."""
    parts = sorted(path for path in folder.iterdir() if path.is_dir() or path.suffix.lower() in (".tif", ".tiff"))
    if not parts:
        raise UserError(f"{folder}: holds no GeoTIFF and no folder")
    images: dict[str, Path] = {}
    for path in parts:
        name = f"{path.stem}/indices.tif"
        if name in images:
            raise UserError(f"{path}: would name the same file as {images[name].name}; rename one, or move it elsewhere")
        images[name] = path
    return images


def make(settings: CovariateSettings, images: Mapping[Path, Path]) -> str:
    """Make covariates by the settings, and return what was made; `images`: file to write -> image with the bands."""
    out = next(iter(images))
    if settings.bands is not None:
        from soilcarbon.zonal.covariates import write_indices  # here and below: --help needs none of these

        for path, image in images.items():
            write_indices([image], path, settings.scale, settings.band_names, settings.missing_values)
        return f"indices of {len(images)} {'image' if len(images) == 1 else 'images'}"
    if settings.dem is not None:
        from soilcarbon.zonal.covariates import write_terrain

        write_terrain(settings.dem, out, settings.missing_values)
        return f"terrain of {settings.dem}"
    from soilcarbon.zonal.climate_zones import climate_variables
    from soilcarbon.zonal.covariates import write_zones

    zones = write_zones(settings.climate, climate_variables(settings), out, settings.missing_values)
    return f"zones 1 to 4 are {', '.join(zones.names)}"
