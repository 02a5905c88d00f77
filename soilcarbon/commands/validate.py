"""Validate maps of soil carbon at independent points and against reference maps.

    soilcarbon validate --maps mine=results/zoned_socd_0_20/socd_0_20_2010-2014.tif,depth=0-20cm --points new.csv --value socd_0_20
    soilcarbon validate --maps mine=socd_0_30.tif --products SoilGrids=ocs_0-30cm_mean.tif,unit=t/ha GSOCmap=GSOCmap.tif,unit=t/ha
    soilcarbon validate --maps mine=soc.tif --points sample.csv --value soc --sampling stratified --strata strata.tif
    soilcarbon validate --config against.yaml          the same in YAML, where a path may have commas

Files may be of any CRS, cell size and extent, GeoTIFF or NetCDF, in kg/m2, g/m2, t/ha, g/kg or %. Of two maps the finer one is
averaged over the cells of the coarser, by area. Points that are a probability sample (as `soilcarbon design` draws them) give
the accuracy over the area, with design-based intervals. Writes into results/against/: report.html, points.csv and
point_scores.csv, design_scores.csv and design_comparisons.csv of a probability sample, product_scores.csv,
difference-<map>-<product>.tif (map minus product) and figures.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from soilcarbon.categories import first_repeated
from soilcarbon.commands.arguments import gdal, read_settings
from soilcarbon.io.files import UserError, check_writable, locked, write_table, write_yaml
from soilcarbon.io.manifest import result_set
from soilcarbon.mapping.carbon_map import CarbonMap, fields_of
from soilcarbon.settings import SOC_FACTOR, Pairs, PointSettings, Texts

if TYPE_CHECKING:
    from soilcarbon.mapping.probability_sample import SampleRule


class SampleSettings(PointSettings):
    """Settings of points that may be a probability sample."""

    sampling: Literal["auto", "random", "stratified", "weighted", "none"] = Field(
        "auto",
        description="how the points were drawn: at random, at random in each stratum, with unequal weights, or by no probability "
        "sample; auto: as the columns that `soilcarbon design` writes say",
    )
    strata: Path | None = Field(None, description="raster of the strata, or table of strata and their sizes (km2, cells, shares)")
    not_sampled: Texts = Field([], description="strata of it that are not of the sampled area")
    collapse: Pairs = Field(
        [], description="STRATUM=STRATUM it is joined with for variances [one of a single point: with the one before it]"
    )

    @property
    def sample_rule(self) -> "SampleRule":
        """How the points were drawn."""
        from soilcarbon.mapping.probability_sample import SampleRule  # slow to import, and --help does not need it

        pairs = dict(each.split("=", 1) for each in self.collapse)
        return SampleRule(self.sampling, self.strata, tuple(self.not_sampled), pairs)


class ValidateSettings(SampleSettings):
    """Settings of a validation of maps at independent points and against reference maps."""

    maps: list[CarbonMap] = Field(
        min_length=1, description="NAME=FILE of the maps to validate, each perhaps with ,unit=t/ha ,variable=BAND ,depth=0-20cm"
    )
    products: list[CarbonMap] = Field(
        [], description="NAME=FILE of reference maps, each perhaps with ,unit=t/ha ,factor=0.1 ,offset=0 ,nodata=-32768"
    )
    points: Path | None = Field(None, description="table of profile_id, lon, lat, value, of profiles that no map was trained on")
    value: str = Field("socd", description="its column")
    unit: str | None = Field(None, description="its unit: kg/m2, g/m2, t/ha, g/kg or % [kg/m2 of socd and socd_0_30, g/kg of soc]")
    soc_factor: float | None = SOC_FACTOR
    depth: str = Field("", max_length=40, description="the depth of the points' values, such as 0-20cm; shown")
    covered: float = Field(0.5, gt=0, le=1, description="share of a coarser cell's area that must have values for a mean to count")
    block_size: float = Field(0.5, gt=0, le=180, description="side of the blocks of points resampled for intervals, degrees")
    out: Path = Field(Path("results/against"), description="folder of the report, tables, figures and differences")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the bootstrap")

    @field_validator("maps", "products", mode="before")
    @classmethod
    def _named_files(cls, given: Any) -> Any:
        return [fields_of(each) if isinstance(each, str) else each for each in given] if isinstance(given, list) else given

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.products and self.points is None:
            raise ValueError("there is nothing to compare maps with; give products, points or both")
        names = [each.name for each in (*self.maps, *self.products)]
        if double := first_repeated(names):
            raise ValueError(f"two maps are called {double!r}; give NAME=FILE")
        if taken := next((name for name in names if name in ("profile_id", "lon", "lat", "observed")), None):
            raise ValueError(f"{taken!r} is a column of the points; call the map something else")
        if unseen := next((name for name in names if not name.isprintable()), None):
            raise ValueError(f"{unseen!r} has characters that cannot be printed; call the map something else")
        return self


log = logging.getLogger(__name__)


def _unit_of_points(settings: ValidateSettings, points: Path) -> str:
    """Return the unit of the points' values: as stated, or as the name of their column says.

    UserError if neither says it, or the column is one of organic matter and neither its share of carbon nor its unit is stated.
    """
    from soilcarbon.io.columns import is_organic_matter
    from soilcarbon.soil.target import organic_matter_unit, target_of

    unit = settings.unit or ("kg/m2" if settings.value == "socd" else None)
    if settings.soc_factor is not None:
        return unit or organic_matter_unit(settings.value, points)
    if unit is None and is_organic_matter(settings.value):
        looks = f"{settings.value!r} looks like organic matter, not carbon"
        raise UserError(f"{points}: {looks}: --soc_factor 0.58 takes 58 % of it; --unit g/kg, if the maps are of it too")
    return target_of(settings.value, unit, points).unit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(ValidateSettings, __doc__, arguments, "soilcarbon validate")
    import pandas as pd  # here and below: --help needs none of these, and they are slow to import

    from soilcarbon.mapping.common_grid import Cells, check_names, pair_name
    from soilcarbon.mapping.design_validation import accuracy, comparisons
    from soilcarbon.mapping.map_validation import ValidationReport, in_one_unit, pair_warnings, score_pair, score_points

    maps, references = settings.maps, settings.products
    check_names(maps, references, settings.points, settings.out)
    check_writable(settings.out)
    tables = ("points.csv", "point_scores.csv", "product_scores.csv", "design_scores.csv", "design_comparisons.csv")
    differences = (f"difference-{pair_name(ours.name, theirs.name)}.tif" for ours in maps for theirs in references)
    names = [*tables, "settings.yaml", "report.html", *differences]
    with locked(settings.out), gdal(), result_set(settings.out, "validate", names) as new:
        report = ValidationReport(new, [each.name for each in maps])
        if settings.points is not None:
            which = settings.points, settings.value, _unit_of_points(settings, settings.points)
            bootstrap = settings.block_size, settings.seed
            points, rows = score_points(
                [*maps, *references], *which, *bootstrap, settings.table_rule(), settings.sample_rule, settings.soc_factor
            )
            write_table(new / "points.csv", points.table)
            write_table(new / "point_scores.csv", rows)
            report.add_points(points, rows, settings.depth)
            if points.sampled is not None:
                found = accuracy(points.sampled), comparisons(points.sampled)
                write_table(new / "design_scores.csv", found[0])
                write_table(new / "design_comparisons.csv", found[1])
                report.add_sample(points.sampled, *found)
        pairs = []
        for ours in maps:
            for theirs in references:
                with Cells(ours) as first, Cells(theirs) as second:
                    shared, row = score_pair(first, second, settings.covered)
                report.add_pair(shared, row)
                pairs.append(row)
        if pairs:
            write_table(new / "product_scores.csv", pd.DataFrame(in_one_unit(pairs)))
            for line in pair_warnings(pairs):
                log.warning("%s", line)
        write_yaml(new / "settings.yaml", settings.as_plain())
        report.write()
    print("\n".join(report.lines))
    print(f"-> {settings.out / 'report.html'}")
