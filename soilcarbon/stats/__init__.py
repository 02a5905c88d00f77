"""Statistics on arrays: metrics, spatial cross-validation, conformal intervals, applicability, variograms, areal means."""
