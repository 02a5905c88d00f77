"""A file with a map of soil carbon, as a command is told of it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from soilcarbon.settings import NodataValues

MEDIANS = "totals are of means"
"""How the meaning of a band of medians ends, in maps made here."""


class CarbonMap(BaseModel):
    """A file with a map of soil carbon, a GeoTIFF or NetCDF of any grid."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str = Field(min_length=1, max_length=80)  # what a report calls it
    path: Path
    unit: str | None = None  # one of `geo.field.UNITS`, where the file does not declare it
    # the band's description or the NetCDF variable, where there are several; of maps made here "prediction"
    variable: str | None = None
    # a value is the file's (its own scale and offset applied) times factor plus offset, in the unit
    factor: float = Field(1.0, gt=0)
    offset: float = 0.0
    nodata: NodataValues = None  # values that mean missing, undeclared in the file; None: those that look so are asked about
    depth: str = Field("", max_length=40)  # of the soil, such as "0-30cm"; "": of maps made here their own


def fields_of(text: str) -> dict[str, str]:
    """Return the fields of "NAME=FILE,unit=t/ha,..."; a file whose path has a comma is named in YAML."""
    first, *others = text.split(",")
    name, named, path = first.partition("=")
    found = {"name": name, "path": path} if named else {"name": Path(first).stem, "path": first}
    for each in others:
        key, given, value = each.partition("=")
        if not given or key not in CarbonMap.model_fields or key in found:
            raise ValueError(f"{each!r} in {text!r} is none of unit=, variable=, factor=, offset=, nodata=, depth=")
        found[key] = value
    return found
