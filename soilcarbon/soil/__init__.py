"""Soil profiles, depth harmonisation, bulk density, SOC density, the dataset folder."""
