"""Mean of an area with its interval: variances, the floor and the shape of the interval, against values worked by hand."""

from dataclasses import astuple

import numpy as np
import pytest
from scipy.stats import norm

from soilcarbon.stats.areal_mean import areal_mean

DRAWN = 20 + norm.ppf((np.arange(2000) + 0.5) / 2000)  # of mean 20 and deviation 1


def width(**more):
    found = areal_mean(19.0, DRAWN, **more)
    return (found.upper - found.lower) / (2 * 1.6449)


def test_variance_of_single_cells_is_added_and_the_standard_error_is_the_least():
    assert width() == pytest.approx(1, rel=0.01)
    assert width(variance=8.0) == pytest.approx(3, rel=0.01)
    assert width(least=2.0) == pytest.approx(2, rel=0.01)
    assert width(variance=8.0, least=2.0) == pytest.approx(3, rel=0.01)


def test_a_stock_stays_above_0_and_a_change_need_not():
    wide = areal_mean(19.0, DRAWN, variance=400.0)
    assert 0 < wide.lower < wide.mean == pytest.approx(20, abs=1e-6)
    assert areal_mean(19.0, DRAWN, variance=400.0, signed=True).lower < 0
    with pytest.raises(ValueError, match="level"):
        areal_mean(19.0, DRAWN, level=1.0)


def test_variances_by_source_add_up_to_that_of_the_interval():
    biases = 0.6 * (DRAWN - 20)  # three fifths of every draw are a bias: 0.6 of the variance of 1
    found = areal_mean(19.0, DRAWN, variance=2.0, biases=biases, shared=1.5, least=2.0)
    variances = found.variances
    expected = 0.6, 0.4, 2.0, 2.25, 1.0  # 4 - 1 - 2 is missing to the least
    assert astuple(variances) == pytest.approx(expected, rel=2e-3)
    assert variances.total == pytest.approx(6.25, rel=2e-3)
    assert width(variance=2.0, shared=1.5, least=2.0) == pytest.approx(2.5, rel=0.01)
