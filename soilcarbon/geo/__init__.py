"""Coordinate systems, grids, rasters and their alignment, vector files, zonal statistics, gridded carbon."""
