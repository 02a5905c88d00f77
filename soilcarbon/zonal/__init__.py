"""Random forests by climate zone: covariates, feature selection, training, evaluation, files."""
