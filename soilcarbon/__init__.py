"""Soil organic carbon maps from soil profiles and environmental covariates.

The names below are the public API. Each is imported when it is first asked for, so that `import soilcarbon` is quick.

"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soilcarbon.estimator import SoilCarbonRegressor as SoilCarbonRegressor

__version__ = "0.2.0"

_HOME = {
    "SoilCarbonRegressor": "soilcarbon.estimator",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'soilcarbon' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
