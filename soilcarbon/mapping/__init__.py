"""Maps from a model and rasters: predictors, tiles, Cloud Optimized GeoTIFF, tables, pages, map validation."""
