"""Make covariates from rasters: spectral indices, terrain derivatives or climate zones.

    soilcarbon covariates --bands landsat/ --scale landsat_collection_2 --out covariates/periodic
    soilcarbon covariates --bands image.tif --band_names SR_B2 SR_B4 SR_B5 SR_B6 --out covariates/indices.tif
    soilcarbon covariates --dem dem.tif --out covariates/terrain.tif
    soilcarbon covariates --climate climate/ --precipitation bio12 --temperature bio01 --out zones.tif

Bands give ndvi, bsi, evi, savi and lswi; a folder of files, or folders, named by years becomes <out>/1985-1989/indices.tif and
so on, as soilcarbon zones reads them. Elevations (m) give slope, aspect, northness, eastness and twi. Long-term precipitation and
temperature give the climate zone (1 to 4) and the weight of each zone. All is written on the grid of its own raster.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, check_writable, locked
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
    check_writable(settings.out.parent)
    with locked(files=[settings.out]):
        make(settings)


def make(settings: CovariateSettings) -> None:
    """Make covariates by the settings."""
    if settings.bands is not None:
        from soilcarbon.zonal.covariates import write_indices  # here and below: --help needs none of these

        if settings.bands.is_dir():
            parts = sorted(path for path in settings.bands.iterdir() if path.is_dir() or path.suffix.lower() in (".tif", ".tiff"))
            todo = [(path, settings.out / path.stem / "indices.tif") for path in parts]
        else:
            todo = [(settings.bands, settings.out)]
        if not todo:
            raise UserError(f"{settings.bands}: holds no GeoTIFF and no folder")
        for path, out in todo:
            write_indices([path], out, settings.scale, settings.band_names, settings.missing_values)
        print(f"{settings.out}: indices of {len(todo)} {'image' if len(todo) == 1 else 'images'}")
    elif settings.dem is not None:
        from soilcarbon.zonal.covariates import write_terrain

        write_terrain(settings.dem, settings.out, settings.missing_values)
        print(f"{settings.out}: terrain of {settings.dem}")
    else:
        from soilcarbon.zonal.climate_zones import climate_variables
        from soilcarbon.zonal.covariates import write_zones

        zones = write_zones(settings.climate, climate_variables(settings), settings.out, settings.missing_values)
        print(f"{settings.out}: zones 1 to 4 are {', '.join(zones.names)}")
