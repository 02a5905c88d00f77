"""Change of stocks or of any value between two visits, with its interval, and what a survey can detect.

    soilcarbon change --table results/stocks/stocks.csv
    soilcarbon change --table stocks.csv --visits 2010 2020 --by treatment --control T1 --block block --level 0.95
    soilcarbon change --table soc.csv --value soc_gkg --visits 1985-1994 2010-2019 --within 20
    soilcarbon change --table stocks.csv --stratum zone --sizes hill=300 plain=700      else those of soilcarbon design
    soilcarbon change --sd 12 --correlation 0.7 --detect 3            how many places are needed
    soilcarbon change --sd 12 --sample_sizes 20 50 100                what change so many find

Reads what `soilcarbon stocks` writes, each method and depth for itself, or any table with a column of places, visits and values.
Places of both visits are paired by name or by distance; where few are, the visits are compared as independent samples. Writes into
results/change/: change.csv (change, standard error, two- and one-sided limits, rate per year, minimum detectable change; by group
and overall), pairs.csv, plan.csv (required places or detectable changes), change.json (counts, checksums) and settings.yaml.
"""

from collections.abc import Sequence

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import UserError, check_writable, locked, write_json, write_table
from soilcarbon.io.manifest import result_set
from soilcarbon.soil.settings import ChangeSettings

FILES = ("change.csv", "pairs.csv", "plan.csv", "change.json", "settings.yaml")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    settings = read_settings(ChangeSettings, __doc__, arguments, "soilcarbon change")
    from soilcarbon.soil.change import analyse, plan_alone  # slow to import, and --help does not need it

    check_writable(settings.out)
    with locked(settings.out):
        try:
            tables, facts = analyse(settings) if settings.table is not None else plan_alone(settings)
        except ValueError as error:
            raise UserError(str(error)) from error
        with result_set(settings.out, "change", FILES) as new:
            for name, table in tables.items():
                if len(table):
                    write_table(new / name, table)
            write_json(new / "change.json", facts)
            settings.write(new / "settings.yaml")
    print(", ".join(f"{settings.out / name}: {len(table)} rows" for name, table in tables.items() if len(table)))
