"""Hold maps of soil carbon against points that none has learnt from, and against other products.

    python against.py --maps mine=results/zoned_socd_0_20/socd_0_20_2010-2014.tif,depth=0-20cm --points new.csv --value socd_0_20
    python against.py --maps mine=socd_0_30.tif --products SoilGrids=ocs_0-30cm_mean.tif,unit=t/ha GSOCmap=GSOCmap.tif,unit=t/ha
    python against.py --config against.yaml          the same in YAML, where a path may have commas

Files may be of any CRS, cell size and extent, GeoTIFF or NetCDF, in kg/m2, g/m2, t/ha, g/kg or %. Of two maps the finer one is
averaged over the cells of the coarser, by area. Writes into results/against/: report.html, points.csv and point_scores.csv,
product_scores.csv, difference-<map>-<product>.tif (map minus product) and figures.
"""

import logging
import sys
from collections.abc import Sequence

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import check_writable, locked, run, write_table, write_yaml
from soilcarbon.study_settings import AgainstSettings

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(AgainstSettings, __doc__, arguments)
    import pandas as pd  # here and below: --help needs none of these, and they are slow to import
    import rasterio

    from soilcarbon.mapping.cog import GDAL_SETTINGS
    from soilcarbon.mapping.map_validation import score_pair, score_points
    from soilcarbon.mapping.map_validation_page import Report, warnings_of
    from soilcarbon.mapping.products import Cells, check_names

    check_names(settings)
    check_writable(settings.out)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what it has to say comes as an error
    with locked(settings.out), rasterio.Env(**GDAL_SETTINGS):
        report = Report(settings)
        if settings.points is not None:
            points, rows = score_points(settings)
            write_table(settings.out / "points.csv", points.table)
            write_table(settings.out / "point_scores.csv", rows)
            report.add_points(points, rows)
        pairs = []
        for ours in settings.maps:
            for theirs in settings.products:
                with Cells(ours) as first, Cells(theirs) as second:
                    shared, row = score_pair(first, second, settings.covered)
                report.add_pair(shared, row)
                pairs.append(row)
        if pairs:
            write_table(settings.out / "product_scores.csv", pd.DataFrame(pairs))
            for line in warnings_of(pairs):
                log.warning("%s", line)
        write_yaml(settings.out / "settings.yaml", settings.as_plain())
        report.write()
    print("\n".join(report.lines))
    print(f"-> {settings.out / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run(main))
