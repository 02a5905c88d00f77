"""Variants of other methods' predictions."""

import numpy as np

from soilcarbon.benchmark import network_variants
from soilcarbon.benchmark.network_variants import METHODS, Case, blend


def test_the_blend_is_the_mean_of_network_and_forest_on_the_log_scale(monkeypatch):
    case = Case(None, None, None, None, None, None)
    known = {"regional": np.array([0.0, 3.0]), "forest_log": np.array([8.0, 3.0]), "tuned": np.array([900.0, 900.0])}
    np.testing.assert_allclose(blend(case, known), [2.0, 3.0])  # 1 + y: the geometric mean of 1 and 9
    monkeypatch.setattr(network_variants, "predict", lambda key, _: known[key])
    np.testing.assert_allclose(METHODS["blend"].columns("blend", case, {})["blend"], [2.0, 3.0])
    np.testing.assert_allclose(blend(case, {"regional": np.array([8.0, 8.0])}), [8.0, 5.0])  # what is there is not computed again
