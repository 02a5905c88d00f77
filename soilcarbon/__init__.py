"""Soil organic carbon maps from soil profiles and environmental covariates."""

__version__ = "0.1.0"
