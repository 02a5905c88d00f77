"""Soil organic carbon maps from soil profiles and environmental covariates."""
