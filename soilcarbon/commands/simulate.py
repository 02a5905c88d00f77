"""Make an example world whose true soil carbon is known.

    soilcarbon simulate --out data/sim [--profiles 6000]
    soilcarbon simulate --world china                        horizons, climate zones and periods instead

Out: five datasets, `global` and, on finer rasters, the regions anhui, switzerland, denmark and australia, each in a
folder <out>/<name>/ that `train` and `finetune` read as it is:

    rasters/<category>.tif   the covariates, a band per variable
    truth.tif                the true SOC of 0-30 cm in g/kg, without measurement noise
    profiles.csv             profile_id, lon, lat, soc: with rasters/, what a user would give to `prepare`
    samples.csv  patches/  stats.csv  split/  dataset.yaml

and <out>/world.png, a picture of it all; in global/ also cSoil.nc, the output of an Earth-system model with known faults, for
`drivers`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import locked
from soilcarbon.settings import Settings

REGION_PROFILES = 300
"""Of each region of the example world: as few as real ones have. Of a small world a third of the global profiles."""


class SimulateSettings(Settings):
    """Settings of a simulated dataset."""

    out: Path = Field(Path("data/sim"), description="folder to make the world in")
    world: Literal["example", "china", "china_unzoned"] = Field(
        "example",
        description="example: SOC of one depth, the whole world and four regions; china: horizons, periods, and zones in which "
        "carbon depends differently on covariates; china_unzoned: the same with one relationship everywhere",
    )
    profiles: int = Field(6000, ge=100, le=10_000_000, description="profiles of the global dataset (106167: the paper's size)")
    cell: float = Field(0.5, ge=0.05, le=2, description="cell of the global rasters, degrees; that of the regional ones is a tenth")
    seed: int = Field(314, ge=0, lt=2**31, description="seed of the whole world")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(SimulateSettings, __doc__, arguments, "soilcarbon simulate")
    if settings.world != "example":
        from soilcarbon.simulation.china import make_china  # here: --help needs none of it

        with locked(settings.out):
            law: Literal["zoned", "unzoned"] = "zoned" if settings.world == "china" else "unzoned"
            folder = make_china(settings.out, law, profiles=settings.profiles, cell=settings.cell, seed=settings.seed)
        print(f"{folder}: {settings.profiles:,} profiles, cells of {settings.cell:g} degrees")
        return
    from soilcarbon.simulation.example import make_world

    region_profiles, region_cell = min(REGION_PROFILES, settings.profiles // 3), settings.cell / 10
    with locked(settings.out):
        make_world(
            settings.out,
            profiles=settings.profiles,
            region_profiles=region_profiles,
            cell=settings.cell,
            region_cell=region_cell,
            seed=settings.seed,
        )
    print(
        f"{settings.out}: global ({settings.profiles:,} profiles, cells of {settings.cell:g} degrees) and "
        f"four regions ({region_profiles:,} profiles each, cells of {region_cell:g} degrees)"
    )
