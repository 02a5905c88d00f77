"""From a sampling design to a claim: points drawn, layers measured at two visits, stocks, their change, and what is credited."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rasterio.transform import Affine

from soilcarbon.commands import change, claim, design, stocks
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import run

SIDE = 40
TRUE_CHANGE = 3.0
"""t/ha in the soil that was 0-30 cm deep at the first visit, in every place."""


def measured(points, random):
    """Return layers of each point at two visits; at the second the same soil is 5 % denser, and its layers thinner."""
    rows = []
    stratum = points["stratum"].astype(float)
    stock = 40 + 10 * stratum / stratum.max() + random.normal(0, 3, len(points))
    for year, density, more in ((2015, 1.3, 0.0), (2025, 1.365, TRUE_CHANGE)):
        own = stock + more + random.normal(0, 1, len(points))
        for top, bottom, share in ((0, 15, 0.6), (15, 30, 0.4), (30, 45, 0.3)):
            limits = {"top": top * 1.3 / density, "bottom": bottom * 1.3 / density}
            soc = 10 * own * share / (1.3 * 15)  # g/kg, of t/ha in 15 cm
            rows.append(points.assign(year=year, **limits, soc=soc, bulk_density=density, stones=0))
    return pd.concat(rows)


def test_a_design_is_measured_and_claimed(workplace):
    random = np.random.default_rng(0)
    layers = np.stack([np.add.outer(np.arange(SIDE), np.zeros(SIDE)), random.random((SIDE, SIDE))])
    write_geotiff(Path("covariates.tif"), layers, ["north", "noise"], Affine(25, 0, 500_000, 0, -25, 5_200_000), "EPSG:32632")
    drawn = ["--rasters", "covariates.tif", "--n_points", "24", "--n_strata", "6", "--reserve", "1", "--out", "design"]
    assert run(lambda: design.main(drawn)) == 0
    points = pd.read_csv("design/points.csv")
    sampled = points[points["reserve"] == 0].reset_index(drop=True)
    assert len(sampled) == 24 and sampled["stratum"].nunique() == 6
    measured(sampled, random).to_csv("layers.csv", index=False)

    how = ["--horizons", "layers.csv", "--depths", "0", "30", "--bulk_density_of", "fine_earth", "--sd", "soc=5%"]
    assert run(lambda: stocks.main([*how, "--out", "stocks"])) == 0
    assert run(lambda: change.main(["--table", "stocks/stocks.csv", "--out", "change"])) == 0
    facts = json.loads(Path("change/change.json").read_text())
    table = pd.read_csv("stocks/stocks.csv")
    table = table[table["method"] == "esm_spline"]
    wide = table.pivot(index=["profile_id", "stratum", "stratum_size"], columns="visit", values="stock_t_ha").reset_index()
    each = (wide[2025] - wide[2015]).groupby(wide["stratum"]).agg(["mean", "var", "size"])
    share = wide.groupby("stratum")["stratum_size"].first()
    share /= share.sum()
    found, fixed = (next(row for row in facts["changes"] if row["method"] == name) for name in ("esm_spline", "fixed_depth"))
    assert found["change"] == pytest.approx(float(share @ each["mean"]))
    assert found["standard_error"] == pytest.approx(float((share**2 * each["var"] / each["size"]).sum() ** 0.5))
    assert (found["design"], found["df"]) == ("paired", 18) and found["low"] < TRUE_CHANGE < found["high"]
    assert fixed["change"] - found["change"] > 1  # more soil in 30 cm, not more carbon in it

    asked = ["--change", "change", "--of", "method=esm_spline", "layer=1", "--stocks", "stocks", "--area_ha", "100"]
    assert run(lambda: claim.main([*asked, "--out", "claim"])) == 0
    claimed = json.loads(Path("claim/claim.json").read_text())
    assert claimed["change"]["value"] == pytest.approx(found["change"])
    assert 0 < claimed["deduction"]["credited"] < found["change"]
    assert "in strata (stratum)" in claimed["plots"]["design"]
    assert not [each for each in claimed["warnings"] if "simple random" in each]
