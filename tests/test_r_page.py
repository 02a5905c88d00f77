"""The Python calls of docs/r.md, with the arguments that reticulate makes of R's: lists of numbers, matrices, text."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

import soilcarbon

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "r.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples" / "anhui" / "data"


def test_every_name_is_one_of_the_package():
    names = set(re.findall(r"\bsc\$(\w+)", TEXT))
    assert names == {"knndm_folds", "ApplicabilityArea", "run", "sampling_design", "validate_map"}
    assert all(hasattr(soilcarbon, name) for name in names)


def test_folds():
    points = pd.read_csv(EXAMPLE / "profiles.csv")
    lat, lon = (each.ravel() for each in np.meshgrid(np.arange(30.6, 31.301, 0.02), np.arange(118.5, 119.601, 0.02)))
    folds, facts = soilcarbon.knndm_folds(points["lon"].tolist(), points["lat"].tolist(), 5, (lon.tolist(), lat.tolist()))
    assert set(folds) == set(range(5))
    assert facts["w_km"] <= facts["w_random_km"]


def test_area_of_applicability():
    train = np.array([[12, 700], [30, 640], [45, 610], [60, 580], [80, 560], [95, 520]], float)
    new = np.array([[33, 630], [900, 80]], float)
    area = soilcarbon.ApplicabilityArea.fit(train, weights=[1.0, 2.0], folds=[0, 0, 1, 1, 2, 2])
    index = area.index(new)
    assert index[0] < area.threshold < index[1]
    assert area.inside(new).tolist() == [1, 0]


def test_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    covariates = str(EXAMPLE / "covariates.tif")
    soilcarbon.run("prepare", points=str(EXAMPLE / "profiles.csv"), target="som_gkg", soc_factor=0.58, rasters=covariates,
                   split="blocks", test_share=0.0, out="data/xuancheng")  # fmt: skip
    assert 'sc$run("prepare"' in TEXT
    with pytest.raises(Exception, match="unknown setting"):
        soilcarbon.run("fit", data="data/xuancheng")


@pytest.mark.slow
def test_the_calls_of_a_map_run_as_they_stand(tmp_path, monkeypatch, no_drawing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    calls = re.findall(r"(?ms)^sc\$(run\(.*?\))$", TEXT)  # settings by name: the same in R and in Python
    assert len(calls) == 3
    for call in calls:
        exec(f"soilcarbon.{call}")
    written = set(re.findall(r'"(results/[^"]+)"', TEXT))
    assert written == {"results/xuancheng/soc.tif", "results/xuancheng/soc_totals.csv"} and all(map(os.path.isfile, written))
    bands = re.search(r"soc.tif\"\)\s+# (.+)", TEXT)[1].split(", ")
    with rasterio.open("results/xuancheng/soc.tif") as raster:
        assert list(raster.descriptions) == bands


def test_design_based_accuracy():
    sample = pd.read_csv(EXAMPLE / "probability_sample.csv")
    with rasterio.open(EXAMPLE / "strata.tif") as raster:
        codes, counts = np.unique(raster.read(1), return_counts=True)
    sizes = {str(code): int(count) for code, count in zip(codes, counts, strict=True) if code > 0}
    design = soilcarbon.sampling_design(len(sample), strata=sample["stratum"].astype(str).tolist(), sizes=sizes)
    on = (sample["stratum"] != 5).tolist()
    predicted = [13.0 if each else 0.0 for each in on]
    accuracy = soilcarbon.validate_map(sample["soc_gkg"].tolist(), predicted, design, domain=on)
    share = np.array([sizes[str(each)] for each in sample["stratum"]]) / sample["stratum"].map(sample["stratum"].value_counts())
    expected = np.average((13.0 - sample["soc_gkg"])[on], weights=share[on])
    assert accuracy["me"].value == pytest.approx(expected)
    assert accuracy["mec"].value < 0.05
