"""Settings of the scripts around the pipeline: simulated lands, studies, densities, covariates, comparisons.

In: nothing. Out: classes like those of `config`, one for each script.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from soilcarbon.settings import Settings


class SimulateSettings(Settings):
    """The example world."""

    out: Path = Field(Path("data/sim"), description="folder to make the world in")
    world: Literal["example", "china"] = Field(
        "example",
        description="example: SOC of one depth, all lands and four regions; china: horizons, zones, periods (china.py)",
    )
    law: Literal["zoned", "unzoned"] = Field("zoned", description="china: whether carbon follows another law in each climate zone")
    profiles: int = Field(6000, ge=100, le=10_000_000, description="profiles of the global dataset (106167: the paper's size)")
    region_profiles: int = Field(300, ge=30, le=1_000_000, description="profiles of each regional dataset")
    cell: float = Field(0.5, ge=0.05, le=2, description="cell of the global rasters, degrees")
    region_cell: float = Field(0.05, ge=0.005, le=0.5, description="cell of the regional rasters, degrees")
    radius: int = Field(1, ge=0, le=20, description="cells cut on each side of a profile")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the whole world")


class SkillSettings(Settings):
    """One table of the skill of finished runs."""

    runs: list[str] = Field(description="runs that pred.py has evaluated on their test split", min_length=1)
    results_dir: Path = Field(Path("results"), description="folder that holds <run>/ of each")
    out: Path = Field(Path("results/skill"), description="folder of the table and its figure")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of forests and bootstrap")


class CompareSettings(Settings):
    """The network against every baseline, on the same folds."""

    preset = "sim_compare.yaml"
    preset_unless = ("config", "regions")

    regions: list[Path] = Field(description="datasets of regions, the folder's name being the region's", min_length=1)
    global_data: Path = Field(description="dataset the network is pretrained on, again for each region, without any place of it")
    pretrained: Path = Field(description="checkpoint that says how: its settings are taken")
    regional: Path = Field(description="YAML of train_regional.py's settings: the network to be compared")
    out: Path = Field(Path("results/compare"), description="folder of the report and of what it is made from")
    ways: list[Literal["random", "place", "blocks", "region", "knndm"]] = Field(
        ["random", "blocks"], min_length=1, description="how profiles are held out, the last being what the answer rests on"
    )
    folds: int = Field(5, ge=2, le=50, description="folds of each way")
    block_size: float | None = Field(None, gt=0, le=180, description="side of blocks, degrees [the dataset's, or the variogram's]")
    land: Path | None = Field(None, description="knndm: raster that is above 0 where the map will be")
    methods: list[str] = Field([], description="what is compared in the last way [everything]")
    few_methods: list[str] = Field(
        ["mean", "forest", "forest_log", "forest_world_log", "quantile_forest", "tuned", "regional"],
        min_length=1,
        description="what is compared in the other ways",
    )
    profiles: int = Field(
        0, ge=0, le=10**7, description="profiles to learn from in each fold, drawn at random; 0: all that are not held out"
    )
    sizes: list[int] = Field([], description="learning curves: numbers of profiles to learn from; 0: all")
    repeats: int = Field(3, ge=1, le=100, description="draws of each number of profiles")
    curve_methods: list[str] = Field(
        ["forest_log", "forest_world_log", "pretrained", "tuned", "regional"], description="what is compared in learning curves"
    )
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, methods and bootstrap")
    resume: bool = Field(False, description="keep the trials that an interrupted comparison of the same settings has finished")

    @field_validator("regions")
    @classmethod
    def _regions_are_told_apart(cls, folders: list[Path]) -> list[Path]:
        names = [folder.name for folder in folders]
        for name in names:
            if not re.fullmatch(r"[\w.][\w.-]*", name) or name in (".", ".."):
                raise ValueError(f"{name!r} names a region and files: letters, digits, '-', '.' and '_' only")
            if names.count(name) > 1:
                raise ValueError(f"two regions are named {name!r}, by their folders")
        return folders

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name in ("ways", "methods", "few_methods", "sizes", "curve_methods"):
            values = getattr(self, name)
            double = next((each for each in values if values.count(each) > 1), None)
            if double is not None:
                raise ValueError(f"{name}: {double!r} comes twice")
        small = next((size for size in [*self.sizes, self.profiles] if size < 0 or 0 < size < 20), None)
        if small is not None:
            raise ValueError(f"{small} profiles are too few to learn from; 0 stands for all, else 20 or more")
        if self.block_size is not None and "blocks" not in self.ways:
            raise ValueError("block_size is of the way blocks, which is not among the ways")
        if self.profiles and "knndm" in self.ways:
            raise ValueError("knndm matches distances of all profiles, so it goes with profiles 0")
        return self


class ZonedSettings(Settings):
    """Forests by climate zone, one target after the other."""

    samples: Path = Field(description="table of profile_id, lon, lat, year, targets and covariates; or a dataset's folder")
    targets: list[str] = Field(
        ["socd_0_20", "socd_0_100"],
        min_length=1,
        description="columns to learn, each by itself; profiles without one are left out of it",
    )
    unit: str = Field("kg/m2", description="the targets' unit")
    covariates: list[str] = Field(
        [], description="columns and variables to learn from [all that are numbers, but for targets and year]"
    )
    rasters: list[Path] = Field([], description="GeoTIFFs or folders of them whose variables are added as columns")
    periodic: Path | None = Field(
        None,
        description="folder of a folder of GeoTIFFs per year (1985) or span (1985-1989); a profile takes its own period's mean",
    )
    first_year: int = Field(1985, ge=1000, le=9999, description="first year of the first period")
    period_years: int = Field(5, ge=1, le=1000, description="years of a period")
    year: str | None = Field(
        "year", description="the column of sampling years; profiles without a year are left out; none: years are not asked for"
    )
    precipitation: str = Field("map", description="the column of long-term mean annual precipitation")
    temperature: str = Field("mat", description="the column of long-term mean annual temperature")
    zone: str | None = Field(
        None, description="the column or raster variable of ready zones, whole numbers, instead of precipitation and temperature"
    )
    wet: float = Field(400.0, description="precipitation from which a zone is wet, in its column's unit (mm)")
    warm: float = Field(10.0, description="temperature from which a zone is warm, in its column's unit (degrees C)")
    wet_band: float = Field(50.0, ge=0, description="width of the band over which blended predictions pass from wet to dry")
    warm_band: float = Field(1.0, ge=0, description="width of the band over which blended predictions pass from warm to cool")
    zone_names: list[str] = Field(
        ["humid", "semi-humid", "semi-arid", "arid"],
        min_length=4,
        max_length=4,
        description="names of wet and warm, wet and cool, dry and warm, dry and cool; which the paper calls which is unverified",
    )
    boundary: Literal["hard", "blended"] = Field("hard", description="what the saved model does at a boundary; scores tell of both")
    fewest: int = Field(50, ge=10, description="profiles below which a zone is served by the forest of all")
    correlation: float = Field(0.95, gt=0, le=1, description="|Pearson r| above which one of two covariates is dropped")
    best: int = Field(10, ge=1, le=14, description="covariates of the highest rank of which every subset is tried, 2^best - 1")
    candidates: int = Field(20, ge=1, le=10_000, description="settings of the forest that are tried, drawn at random")
    folds: int = Field(5, ge=2, le=50, description="folds held out for the scores")
    inner_folds: int = Field(5, ge=2, le=50, description="folds that choose covariates and settings, of the profiles not held out")
    block_size: float = Field(0.5, gt=0, le=180, description="side of the blocks that no fold parts, degrees")
    trees: int = Field(300, ge=1, le=100_000, description="trees of a forest")
    network: bool = Field(
        False, description="also score this project's network on the same folds: one for all, and fine-tuned in each zone"
    )
    network_epochs: int = Field(100, ge=1, le=1_000_000, description="its passes over the profiles, at most")
    search_trees: int = Field(50, ge=1, le=100_000, description="trees of a forest that is only tried")
    run: str = Field("zoned", pattern=r"^[A-Za-z0-9][\w.-]*$", description="the run's name: names models and results")
    model_dir: Path = Field(Path("model"), description="folder of models: <run>_<target>.skops, and .yaml for people")
    results_dir: Path | None = Field(None, description="folder of scores and importances [results/<run>/]")
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, forests and bootstrap")
    resume: bool = Field(False, description="keep the folds that an interrupted run of the same settings has finished")

    @field_validator("targets", "covariates", "zone_names")
    @classmethod
    def _each_once(cls, names: list[str]) -> list[str]:
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"{double!r} comes twice")
        if unseen := next((name for name in names if not name.isprintable()), None):
            raise ValueError(f"{unseen!r} holds what cannot be printed")
        return names

    @model_validator(mode="after")
    def _periods_need_years(self) -> Self:
        if self.periodic is not None and self.year is None:
            raise ValueError("periodic rasters are of the years profiles were sampled in, so they need year")
        return self

    @field_validator("targets")
    @classmethod
    def _targets_name_files(cls, names: list[str]) -> list[str]:
        wrong = next((name for name in names if not re.fullmatch(r"\w[\w.-]*", name)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} names files too: letters, digits, '-', '.' and '_' only")
        return names

    @property
    def results(self) -> Path:
        """The folder of this run's results."""
        return self.results_dir or Path("results") / self.run


class CovariateSettings(Settings):
    """Spectral indices, terrain derivatives or zones, of rasters."""

    bands: Path | None = Field(None, description="GeoTIFF with blue, red, nir and swir1; or a folder of them, named by years")
    band_names: list[str] = Field(
        ["blue", "red", "nir", "swir1"], min_length=4, max_length=4, description="what these four are called there, in this order"
    )
    scale: Literal["reflectance", "landsat_collection_2", "ten_thousandths"] = Field(
        "reflectance", description="what makes its numbers reflectance, where the file does not say so itself"
    )
    dem: Path | None = Field(None, description="or a GeoTIFF of elevations, m")
    climate: list[Path] = Field([], description="or GeoTIFFs, or folders of them, with precipitation and temperature")
    precipitation: str = Field("map", description="climate: the variable of long-term mean annual precipitation")
    temperature: str = Field("mat", description="climate: the variable of long-term mean annual temperature")
    wet: float = Field(400.0, description="climate: precipitation from which a zone is wet, in its variable's unit (mm)")
    warm: float = Field(10.0, description="climate: temperature from which a zone is warm, in its variable's unit (degrees C)")
    wet_band: float = Field(50.0, ge=0, description="climate: width of the band over which weights pass from wet to dry")
    warm_band: float = Field(1.0, ge=0, description="climate: width of the band over which weights pass from warm to cool")
    out: Path = Field(description="the GeoTIFF to write; the folder, where bands is one")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.bands is not None) + (self.dem is not None) + bool(self.climate) != 1:
            raise ValueError("give one of --bands, --dem and --climate")
        if len(set(self.band_names)) < len(self.band_names):
            raise ValueError("band_names: blue, red, nir and swir1 are four different bands")
        inputs = [path for path in (self.bands, self.dem, *self.climate) if path is not None]
        if any(self.out.resolve() == path.resolve() for path in inputs):
            raise ValueError(f"out: {self.out} is read; give the result another name")
        return self


class DensitySettings(Settings):
    """From horizons to soil organic carbon density, one row per profile."""

    horizons: Path = Field(description="horizons: CSV, TSV, GeoPackage or GeoJSON, with profile_id, lon, lat, top and bottom (cm)")
    out: Path = Field(Path("data/densities.csv"), description="the table to write; left_out.csv and .yaml go beside it")
    depths: list[float] = Field(
        [0.0, 20.0, 100.0], min_length=2, description="the upper limit and the lower ones, cm: 0 20 100 gives 0-20 and 0-100"
    )
    soc: str | None = Field(None, description="the column of soil organic carbon [the first whose name is known]")
    bulk_density: str | None = Field(None, description="the column of bulk density of fine earth [the same; none: all estimated]")
    stones: str | None = Field(None, description="the column of coarse fragments, % of volume [the same; none: taken as 0]")
    year: str | None = Field(None, description="the column of sampling years [the same]")
    soc_unit: Literal["g/kg", "%"] = Field("g/kg", description="unit of soil organic carbon")
    bulk_density_unit: Literal["g/cm3", "kg/m3"] = Field("g/cm3", description="unit of bulk density")
    soc_sd: str = Field("0", description="its standard deviation: a column, a number in its unit, or a share of it such as 10%")
    bulk_density_sd: str = Field(
        "0", description="the same of bulk density that was measured; estimates have their function's error"
    )
    stones_sd: str = Field("0", description="the same of coarse fragments")
    depth_method: Literal["mean", "spline", "spline_1cm"] = Field(
        "spline", description="horizons to intervals: mass-preserving spline (Bishop et al. 1999), or mean weighted by thickness"
    )
    spline_lambda: float = Field(0.1, ge=0, le=1e9, description="smoothness of the spline; 0 keeps the mass of every horizon")
    multiply: Literal["horizons", "intervals", "layers"] = Field(
        "horizons",
        description="SOC x bulk density of each horizon, and then depth; of each interval; or, as Dong, Wang and Su, of means "
        "weighted from 0-5, 5-15, 15-30, 30-60, 60-100 cm",
    )
    min_covered: float | None = Field(
        None, ge=0, description="centimetres of an interval that must have been observed [all of it]; 0: to the observed bottom"
    )

    @field_validator("depths")
    @classmethod
    def _depths_descend(cls, limits: list[float]) -> list[float]:
        if limits[0] < 0 or any(upper >= lower for upper, lower in pairwise(limits)):
            raise ValueError("the upper limit, 0 or more, and then lower ones, each below the one before: 0 20 100")
        return limits

    @field_validator("out")
    @classmethod
    def _out_is_a_table(cls, path: Path) -> Path:
        if path.suffix != ".csv":
            raise ValueError("the table to write is named *.csv")
        return path

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """Upper and lower limit of each interval, cm."""
        return [(self.depths[0], lower) for lower in self.depths[1:]]


class Target(BaseModel):
    """Soil carbon whose drivers are looked for.

    Attributes
    ----------
    name
        What the report calls it.
    kind
        "observed" (profiles, or a map made from them) or "model" (what a process model or Earth-system model gives).
    path
        GeoTIFF or NetCDF, of any grid; None: the target of the dataset's own profiles.
    variable
        The NetCDF variable or the band's description, where there are several.
    unit
        One of `fields.UNITS`, where the file does not say; of the dataset's own profiles g/kg if it is not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(min_length=1, max_length=80)
    kind: Literal["observed", "model"]
    path: Path | None = None
    variable: str | None = None
    unit: str | None = None


class DriverSettings(Settings):
    """What controls soil carbon, in observations and in models."""

    preset = "sim_drivers.yaml"
    preset_unless = ("config", "data_dir", "rasters")
    yaml_only = ("targets", "drivers", "zones")

    targets: tuple[Target, ...] = Field(
        (Target(name="observations", kind="observed"),), min_length=1, description="list of {name, kind, path, variable, unit}"
    )
    data_dir: Path | None = Field(None, description="dataset of profiles and their covariates")
    target: str = Field("soc", description="the column of its sample table that is observed")
    rasters: list[Path] = Field([], description="without data_dir: covariates, GeoTIFF files, folders of them, or YAML lists")
    classes: list[str] = Field([], description="variables that are class codes, beside those of the dataset's categories")
    support: Literal["cells", "profiles"] = Field(
        "cells", description="compare where: profiles averaged in the cells of the coarsest target, or profile by profile"
    )
    drivers: dict[str, tuple[str, ...]] = Field(
        {}, description="driver -> variables permuted together [the dataset's categories; variables not named keep theirs]"
    )
    zones: dict[str, dict[str, tuple[float, float]]] = Field(
        {}, description="zone -> {lon, lat or a variable: [from, to]}: where importance is also told of"
    )
    responses: list[str] = Field([], description="variables to draw response curves of [the foremost one of each driver]")
    pair: list[str] = Field([], description="two variables whose joint response is drawn [the two foremost of different drivers]")
    learners: list[Literal["boosting", "forest", "network"]] = Field(
        ["boosting", "forest", "network"], min_length=1, description="what learns; mismatches rest on the first"
    )
    folds: int = Field(5, ge=2, le=50, description="folds of whole blocks that each learner is cross-validated on first")
    block_size: float = Field(2.0, gt=0, le=180, description="side of blocks that are held out and resampled whole, degrees")
    min_skill: float = Field(0.1, ge=0, lt=1, description="cross-validated R2 below which a learner's drivers are not told of")
    bootstraps: int = Field(
        100, ge=10, le=10_000, description="refits of each learner on random halves of the blocks; even, as they come in pairs"
    )
    level: float = Field(0.95, gt=0.5, lt=1, description="of intervals; 1 - level is also the risk of naming any mismatch wrongly")
    cells: int = Field(30_000, ge=200, le=10**7, description="rasters: cells drawn, at most")
    out: Path = Field(Path("results/drivers"), description="folder of the report and of what it is made from")
    workers: int = Field(0, ge=0, le=1024, description="processes; 0: one per core")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of folds, halves, learners and permutations")
    resume: bool = Field(False, description="keep the refits that an interrupted run of the same settings has finished")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [target.name for target in self.targets]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"two targets are named {double!r}")
        if (self.data_dir is None) == (not self.rasters):
            raise ValueError("covariates come from a dataset (data_dir) or from rasters; give one of the two")
        if self.data_dir is None and any(target.path is None for target in self.targets):
            raise ValueError("a target without path is that of a dataset's profiles, so it needs data_dir")
        if sum(target.path is None for target in self.targets) > 1:
            raise ValueError("one target at most may be without path: the dataset's profiles")
        if not any(target.kind == "observed" for target in self.targets):
            raise ValueError("targets: one must be observed, what the others are held against")
        listed = [name for names in self.drivers.values() for name in names]
        for what, values in (("drivers", listed), ("responses", self.responses), ("pair", self.pair), ("learners", self.learners)):
            double = next((name for name in values if list(values).count(name) > 1), None)
            if double is not None:
                raise ValueError(f"{what}: {double!r} comes twice")
        if len(self.pair) not in (0, 2):
            raise ValueError("pair: two variables, or none")
        if self.bootstraps % 2:
            raise ValueError("refits come in pairs, one on each half of the blocks: bootstraps must be even")
        for zone, ranges in self.zones.items():
            if not ranges or any(low >= high for low, high in ranges.values()):
                raise ValueError(f"zone {zone!r}: each range needs a lower limit below its upper one, and a zone needs a range")
        return self


class Product(BaseModel):
    """A map of soil carbon, one's own or another's.

    Attributes
    ----------
    name
        What the report calls it.
    path
        GeoTIFF or NetCDF, of any grid.
    unit
        One of `fields.UNITS`, where the file does not say.
    variable
        The band's description or the NetCDF variable, where there are several; of our maps "prediction".
    factor, offset
        A value is what the file says (its own scale and offset applied) times factor plus offset, in the unit.
    nodata
        What the file says where it knows nothing, if it does not declare it.
    depth
        Of the soil, such as "0-30 cm", to be told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str = Field(min_length=1, max_length=80)
    path: Path
    unit: str | None = None
    variable: str | None = None
    factor: float = Field(1.0, gt=0)
    offset: float = 0.0
    nodata: float | None = None
    depth: str = Field("", max_length=40)


class AgainstSettings(Settings):
    """Maps held against independent points and other products."""

    maps: list[Product] = Field(
        min_length=1, description="NAME=FILE of the maps to judge, each perhaps with ,unit=t/ha ,variable=BAND ,depth=0-20cm"
    )
    products: list[Product] = Field(
        [],
        description="NAME=FILE of the maps to hold them against, each perhaps with ,unit=t/ha ,factor=0.1 ,offset=0 ,nodata=-32768",
    )
    points: Path | None = Field(
        None, description="table of profile_id, lon, lat and a value, of profiles that no map has learnt from"
    )
    value: str = Field("socd", description="its column")
    unit: str = Field("kg/m2", description="its unit: kg/m2, g/m2, t/ha, g/kg or %")
    depth: str = Field("", max_length=40, description="the depth of the points' values, such as 0-20cm, to be told")
    covered: float = Field(
        0.5, gt=0, le=1, description="share of a coarser cell's area that must have values for their mean to stand"
    )
    block_size: float = Field(0.5, gt=0, le=180, description="side of the blocks of points that are drawn for intervals, degrees")
    out: Path = Field(Path("results/against"), description="folder of the report, tables, figures and differences")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the bootstrap")

    @field_validator("maps", "products", mode="before")
    @classmethod
    def _named_files(cls, given: Any) -> Any:
        return [_product(each) if isinstance(each, str) else each for each in given] if isinstance(given, list) else given

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.products and self.points is None:
            raise ValueError("there is nothing to hold maps against; give products, points or both")
        names = [each.name for each in (*self.maps, *self.products)]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two maps are called {double!r}; say NAME=FILE")
        if taken := next((name for name in names if name in ("profile_id", "lon", "lat", "observed")), None):
            raise ValueError(f"{taken!r} is a column of the points; call the map something else")
        if unseen := next((name for name in names if not name.isprintable()), None):
            raise ValueError(f"{unseen!r} holds what cannot be printed; call the map something else")
        return self


def _product(text: str) -> dict[str, str]:
    """Return what "NAME=FILE,unit=t/ha,..." says; a file whose path has a comma is named in YAML."""
    first, *others = text.split(",")
    name, named, path = first.partition("=")
    found = {"name": name, "path": path} if named else {"name": Path(first).stem, "path": first}
    for each in others:
        key, given, value = each.partition("=")
        if not given or key not in Product.model_fields or key in found:
            raise ValueError(f"{each!r} in {text!r} is none of unit=, variable=, factor=, offset=, nodata=, depth=")
        found[key] = value
    return found
