"""The blocks of docs/python.md run one after the other, and give what the page says."""

import re
from pathlib import Path

import numpy as np
import pytest

import soilcarbon

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_names_what_there_is():
    used = set(re.findall(r"\bsoilcarbon\.([A-Za-z]\w*)\(", "".join(BLOCKS)))
    assert len(used) > 5 and not used - set(soilcarbon.__all__)


@pytest.mark.slow
def test_the_page_runs(workplace, no_drawing):
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, PAGE.name, "exec"), names)
    assert names["model"].feature_names_in_.tolist() == list(names["covariates"].data_vars)
    assert len(names["scores"]) == 5 and (names["scores"] < 0).all()
    inside = names["soc"]["inside"].values
    assert set(np.unique(inside[np.isfinite(inside)])) == {0, 1}
    means = names["soilcarbon"].zone_means(names["model"], names["covariates"], names["zones"])
    assert means["zone"].tolist() == ["whole map", "west", "east"] and (means["mean_lower"] < means["mean_upper"]).all()
