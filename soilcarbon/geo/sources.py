"""Public rasters of the world: where each lies, in which unit, under which licence, and whether a part of it can be fetched.

Addresses are as their publishers document them. None was tried when this table was written: the machines that test this package
have no network. Where a file's own scale and offset say the unit, nothing is converted here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from soilcarbon.geo.crs import Bounds
from soilcarbon.io.files import UserError, nearest

_DEPTHS = ("0-5cm", "5-15cm", "15-30cm", "30-60cm", "60-100cm", "100-200cm")
_SOILGRIDS = ("bdod", "cec", "cfvo", "clay", "nitrogen", "ocd", "phh2o", "sand", "silt", "soc")


def _degree_tiles(bounds: Bounds, bucket: str, seconds: str) -> list[str]:
    """Return the addresses of the tiles of one degree of the Copernicus DEM that cover lon_min, lon_max, lat_min, lat_max."""
    lon_min, lon_max, lat_min, lat_max = bounds
    found = []
    for lat in range(math.floor(lat_min), math.ceil(lat_max)):
        for lon in range(math.floor(lon_min), math.ceil(lon_max)):
            east = (lon + 180) % 360 - 180
            north, across = f"{'N' if lat >= 0 else 'S'}{abs(lat):02d}", f"{'E' if east >= 0 else 'W'}{abs(east):03d}"
            name = f"Copernicus_DSM_COG_{seconds}_{north}_00_{across}_00_DEM"
            found.append(f"https://{bucket}.s3.amazonaws.com/{name}/{name}.tif")
    return found


@dataclass(frozen=True)
class Source:
    """A public dataset."""

    name: str  # for `soilcarbon fetch`
    what: str  # for readers
    variables: tuple[str, ...]  # names of the files that are made
    cell: str  # as published, as are unit and licence
    unit: str
    licence: str
    address: str  # pattern of the address, {variable} in it
    by_hand: str = ""  # why it cannot be fetched here, and what to do; "" where it can
    tiles: Callable[[Bounds], list[str]] | None = field(default=None, repr=False)  # from an extent to the addresses of tiles

    def addresses(self, variable: str, bounds: Bounds) -> list[str]:
        """Return the addresses of the files of a variable that cover lon_min, lon_max, lat_min, lat_max."""
        if self.tiles:
            return self.tiles(bounds)
        return [self.address.format(variable=variable, property=variable.partition("_")[0])]


SOURCES = (
    Source(
        "chelsa-2.1",
        "climate 1981-2010: 19 bioclimatic variables (Karger et al. 2017)",
        tuple(f"bio{k}" for k in range(1, 20)),
        "30 arc-seconds",
        "degrees C (bio1, 2, 5-11), kg m-2 (bio12-14, 16-19), % (bio3, 15); scale and offset in the files",
        "CC0 1.0 (check)",
        "https://os.zhdk.cloud.switch.ch/chelsav2/GLOBAL/climatologies/1981-2010/bio/CHELSA_{variable}_1981-2010_V.2.1.tif",
    ),
    Source(
        "copernicus-dem-30",
        "elevation, Copernicus DEM GLO-30 (a surface: with trees and buildings)",
        ("elevation",),
        "1 arc-second (wider in longitude beyond 50 degrees north and south)",
        "m above EGM2008",
        "Copernicus licence: free, with attribution (ESA, Airbus)",
        "https://copernicus-dem-30m.s3.amazonaws.com/Copernicus_DSM_COG_10_N47_00_E008_00_DEM/...",
        tiles=lambda bounds: _degree_tiles(bounds, "copernicus-dem-30m", "10"),
    ),
    Source(
        "copernicus-dem-90",
        "elevation, Copernicus DEM GLO-90 (a surface: with trees and buildings)",
        ("elevation",),
        "3 arc-seconds (wider in longitude beyond 50 degrees north and south)",
        "m above EGM2008",
        "Copernicus licence: free, with attribution (ESA, Airbus)",
        "https://copernicus-dem-90m.s3.amazonaws.com/Copernicus_DSM_COG_30_N47_00_E008_00_DEM/...",
        tiles=lambda bounds: _degree_tiles(bounds, "copernicus-dem-90m", "30"),
    ),
    Source(
        "soilgrids-2.0-1km",
        "soil properties, SoilGrids 2.0 aggregated (Poggio et al. 2021)",
        tuple(f"{name}_{depth}_mean" for name in _SOILGRIDS for depth in _DEPTHS) + ("ocs_0-30cm_mean",),
        "1 km, Homolosine",
        "integers: soc dg/kg, bdod cg/cm3, clay, sand, silt g/kg, phh2o pH x 10, cfvo cm3/dm3, nitrogen cg/kg, cec mmol(c)/kg, "
        "ocd hg/m3, ocs t/ha",
        "CC BY 4.0",
        "https://files.isric.org/soilgrids/latest/data_aggregated/1000m/{property}/{variable}_1000.tif",
    ),
    Source(
        "alphaearth",
        "AlphaEarth Foundations embeddings, 64 bands a year from 2017 (Brown et al. 2025)",
        (),
        "10 m, UTM zones",
        "integers -127 to 127, -128 missing; value = sign(v) (v / 127.5)^2",
        "CC BY 4.0; attribution: The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google DeepMind",
        "https://data.source.coop/tge-labs/aef/v1/annual/{year}/{zone}/...",
        by_hand="names of tiles stand in the index of the bucket; give the addresses of those that you need as --rasters",
    ),
    Source(
        "tessera",
        "Tessera embeddings, 128 bands a year from 2017 (Feng et al. 2025)",
        (),
        "10 m, UTM zones",
        "integers with a scale per cell",
        "see the publisher (check)",
        "https://geotessera.readthedocs.io",
        by_hand="the scale is stored apart; the package geotessera writes GeoTIFFs of a bounding box",
    ),
    Source(
        "worldclim-2.1",
        "climate 1970-2000: 19 bioclimatic variables (Fick and Hijmans 2017)",
        (),
        "30 arc-seconds to 10 arc-minutes",
        "degrees C, mm, %; bio4 degrees C x 100",
        "academic and other non-commercial use (check)",
        "https://geodata.ucdavis.edu/climate/worldclim/2_1/base/wc2.1_30s_bio.zip",
        by_hand="a zip file, of which no part can be read; download and unpack it",
    ),
    Source(
        "glim",
        "lithology, Global Lithological Map (Hartmann and Moosdorf 2012)",
        (),
        "0.5 degrees (gridded)",
        "16 classes",
        "as stated at PANGAEA (check)",
        "https://doi.org/10.1594/PANGAEA.788537",
        by_hand="a zip file with a text grid; see docs/data-sources.md",
    ),
    Source(
        "modis",
        "reflectance and vegetation indices, MCD43A4, MOD09A1, MOD13",
        (),
        "250 m to 1 km, sinusoidal",
        "integers; x 0.0001",
        "no restrictions",
        "https://ladsweb.modaps.eosdis.nasa.gov",
        by_hand="HDF files behind a login; see docs/data-sources.md, or give STAC items with signed addresses",
    ),
)


def find_source(name: str) -> Source:
    """Return a source that can be fetched.

    UserError if there is none of the name, or it has to be fetched by hand.
    """
    source = next((each for each in SOURCES if each.name == name), None)
    if source is None:
        names = [each.name for each in SOURCES]
        raise UserError(f"no source {name!r}{nearest(name, names)} (soilcarbon fetch --list)")
    if source.by_hand:
        raise UserError(f"{name}: {source.by_hand} ({source.address})")
    return source


def pick_variables(source: Source, wanted: Sequence[str]) -> list[str]:
    """Return the variables of a source that are wanted, all if none are named.

    UserError if one is not in the source.
    """
    if unknown := next((name for name in wanted if name not in source.variables), None):
        raise UserError(f"{source.name} has no variable {unknown!r}{nearest(unknown, source.variables)}")
    return list(wanted or source.variables)
