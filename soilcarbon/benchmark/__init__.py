"""Comparison of the network with baselines on the same folds: experiment, results, report."""
