"""Soil organic carbon maps from soil profiles and environmental covariates.

The names below are the public API. Each is imported when it is first used, so that `import soilcarbon` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soilcarbon.commands.arguments import run as run
    from soilcarbon.estimator import SoilCarbonRegressor as SoilCarbonRegressor
    from soilcarbon.geo.field import open_map as open_map
    from soilcarbon.mapping.datasets import load_model as load_model
    from soilcarbon.mapping.datasets import predict as predict
    from soilcarbon.mapping.datasets import zone_means as zone_means
    from soilcarbon.soil.density import soc_density as soc_density
    from soilcarbon.soil.depth import mass_preserving_spline as mass_preserving_spline
    from soilcarbon.soil.stocks import equivalent_mass_stocks as equivalent_mass_stocks
    from soilcarbon.soil.stocks import fixed_depth_stocks as fixed_depth_stocks
    from soilcarbon.stats.applicability import ApplicabilityArea as ApplicabilityArea
    from soilcarbon.stats.areal_mean import areal_mean as areal_mean
    from soilcarbon.stats.change import paired_change as paired_change
    from soilcarbon.stats.change import unpaired_change as unpaired_change
    from soilcarbon.stats.conformal import ConformalCalibration as ConformalCalibration
    from soilcarbon.stats.design_based import difference_estimate as difference_estimate
    from soilcarbon.stats.design_based import sampling_design as sampling_design
    from soilcarbon.stats.design_based import validate_map as validate_map
    from soilcarbon.stats.error_field import ErrorField as ErrorField
    from soilcarbon.stats.groups import group_folds as group_folds
    from soilcarbon.stats.groups import predefined_split as predefined_split
    from soilcarbon.stats.groups import spatial_groups as spatial_groups
    from soilcarbon.stats.groups import train_valid_test_split as train_valid_test_split
    from soilcarbon.stats.metrics import bootstrap_scores as bootstrap_scores
    from soilcarbon.stats.metrics import coverage as coverage
    from soilcarbon.stats.metrics import interval_score as interval_score
    from soilcarbon.stats.metrics import paired_differences as paired_differences
    from soilcarbon.stats.metrics import picp_table as picp_table
    from soilcarbon.stats.metrics import scores as scores
    from soilcarbon.stats.power import minimum_detectable_change as minimum_detectable_change
    from soilcarbon.stats.power import required_places as required_places
    from soilcarbon.stats.spatial_cv import block_folds as block_folds
    from soilcarbon.stats.spatial_cv import block_size_for_range as block_size_for_range
    from soilcarbon.stats.spatial_cv import held_out_distances as held_out_distances
    from soilcarbon.stats.spatial_cv import knndm_folds as knndm_folds
    from soilcarbon.stats.spatial_cv import make_folds as make_folds
    from soilcarbon.stats.spatial_cv import sample_cell_centres as sample_cell_centres
    from soilcarbon.stats.splitters import BlockKFold as BlockKFold
    from soilcarbon.stats.splitters import KNNDMKFold as KNNDMKFold
    from soilcarbon.stats.variogram import empirical_variogram as empirical_variogram
    from soilcarbon.stats.variogram import fit_variogram as fit_variogram

__version__ = "0.2.0"

_NAMES = {
    "estimator": ("SoilCarbonRegressor",),
    "mapping.datasets": ("load_model", "predict", "zone_means"),
    "commands.arguments": ("run",),
    "stats.groups": ("spatial_groups", "group_folds", "train_valid_test_split", "predefined_split"),
    "stats.spatial_cv": (
        "block_folds",
        "knndm_folds",
        "make_folds",
        "block_size_for_range",
        "held_out_distances",
        "sample_cell_centres",
    ),
    "stats.splitters": ("BlockKFold", "KNNDMKFold"),
    "stats.variogram": ("empirical_variogram", "fit_variogram"),
    "stats.metrics": ("scores", "bootstrap_scores", "paired_differences", "coverage", "interval_score", "picp_table"),
    "stats.conformal": ("ConformalCalibration",),
    "stats.applicability": ("ApplicabilityArea",),
    "stats.error_field": ("ErrorField",),
    "stats.areal_mean": ("areal_mean",),
    "stats.design_based": ("sampling_design", "difference_estimate", "validate_map"),
    "stats.change": ("paired_change", "unpaired_change"),
    "stats.power": ("minimum_detectable_change", "required_places"),
    "geo.field": ("open_map",),
    "soil.depth": ("mass_preserving_spline",),
    "soil.density": ("soc_density",),
    "soil.stocks": ("fixed_depth_stocks", "equivalent_mass_stocks"),
}
_HOME = {name: f"soilcarbon.{module}" for module, names in _NAMES.items() for name in names}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'soilcarbon' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
