"""Variants of other methods' predictions."""

import numpy as np

from soilcarbon.benchmark import network_variants
from soilcarbon.benchmark.network_variants import VARIANTS, blend


def test_the_blend_is_the_mean_of_network_and_forest_on_the_log_scale(monkeypatch):
    known = {"regional": np.array([0.0, 3.0]), "forest_log": np.array([8.0, 3.0]), "tuned": np.array([900.0, 900.0])}
    np.testing.assert_allclose(blend(None, known), [2.0, 3.0])  # 1 + y: the geometric mean of 1 and 9
    monkeypatch.setattr(network_variants, "predict", lambda key, _: known[key])
    np.testing.assert_allclose(VARIANTS["blend"].predict(None), [2.0, 3.0])
    np.testing.assert_allclose(blend(None, {"regional": np.array([8.0, 8.0])}), [8.0, 5.0])  # what is there is not computed again
