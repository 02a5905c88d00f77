"""Constants of the field and of files written here."""

UNFINISHED = ".unfinished"
"""Lies in a dataset's folder while it is being written."""

SOC_MAXIMUM = 1000.0
"""g/kg: more carbon than soil is impossible."""

NODATA = -9999.0
"""The number that stands for a missing cell in patches and in rasters written here."""
