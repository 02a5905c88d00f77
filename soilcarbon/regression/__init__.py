"""Regression of a target on covariates: estimators, their choice by cross-validation, fitted models in files."""
