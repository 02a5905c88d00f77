"""Comparison of methods: on one dataset (`own_data`), in several regions (`regions`), and of finished runs (`trained_runs`).

The first two are cross-validations: a `runs.CrossValidation` says which profiles and folds, the modules plan its `Run`s, `runs`
executes and keeps them, and `runs.held_out` gives their predictions to the tables and the page of the results (`ranking`;
`results`, `report`).

To add a regressor: in YAML, or a line of `baselines.BASELINES`. A method: an entry of `METHODS`, of `methods` for one dataset, of
`network_variants` for regions. Folds: an entry of `spatial_cv.STRATEGIES`, a branch of `make_folds`, and the name among the
`strategies` of the command's settings. A score: `metrics.SCORES`, and its title in `report.SCORES`.
"""
