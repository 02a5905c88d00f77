"""Make covariates of bands, elevations or climate: spectral indices, terrain, zones.

    python covariates.py --bands landsat/ --scale landsat_collection_2 --out covariates/periodic
    python covariates.py --bands image.tif --band_names SR_B2 SR_B4 SR_B5 SR_B6 --out covariates/indices.tif
    python covariates.py --dem dem.tif --out covariates/terrain.tif
    python covariates.py --climate climate/ --precipitation bio12 --temperature bio01 --out zones.tif

Of bands: ndvi, bsi, evi, savi and lswi. A folder of files, or folders, named by years becomes <out>/1985-1989/indices.tif and
so on, as train_zoned.py takes them. Of elevations (m): slope, aspect, northness, eastness and twi. Of long-term precipitation and
temperature: the zone (1 to 4) and each zone's weight, to look at. Everything is written on its own raster's grid.
"""

import sys
from collections.abc import Sequence

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, run
from soilcarbon.study_settings import CovariateSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(CovariateSettings, __doc__, arguments)
    if settings.bands is not None:
        from soilcarbon.zonal.indices import write_indices  # here and below: --help needs none of these

        if settings.bands.is_dir():
            parts = sorted(path for path in settings.bands.iterdir() if path.is_dir() or path.suffix.lower() in (".tif", ".tiff"))
            todo = [(path, settings.out / path.stem / "indices.tif") for path in parts]
        else:
            todo = [(settings.bands, settings.out)]
        if not todo:
            raise UserError(f"{settings.bands}: holds no GeoTIFF and no folder")
        for path, out in todo:
            write_indices([path], out, settings.scale, settings.band_names)
        print(f"{settings.out}: indices of {len(todo)} {'image' if len(todo) == 1 else 'images'}")
    elif settings.dem is not None:
        from soilcarbon.zonal.terrain import write_terrain

        write_terrain(settings.dem, settings.out)
        print(f"{settings.out}: terrain of {settings.dem}")
    else:
        from soilcarbon.zonal.climate_zones import ClimateZones, write_zones

        zones = ClimateZones(settings.wet, settings.warm, settings.wet_band, settings.warm_band)
        write_zones(settings.climate, settings.precipitation, settings.temperature, zones, settings.out)
        print(f"{settings.out}: zones 1 to 4 are {', '.join(zones.names)}")


if __name__ == "__main__":
    sys.exit(run(main))
