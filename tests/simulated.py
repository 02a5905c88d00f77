"""Profiles made by code that methods of mapping are tried on."""

import dataclasses

import numpy as np

from baselines import BASELINES
from grouping import split_units
from methods import Known


def haversine(lon, lat, other_lon, other_lat):
    lon, lat, other_lon, other_lat = np.radians(lon), np.radians(lat), np.radians(other_lon), np.radians(other_lat)
    h = np.sin((lat - other_lat) / 2) ** 2 + np.cos(lat) * np.cos(other_lat) * np.sin((lon - other_lon) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


def profiles(n=300, seed=0, centre=(10.0, 50.0), noise=0.2):
    """Return profiles whose ln(y) is smooth in space and in two of six covariates; the last of these is a class."""
    random = np.random.default_rng(seed)
    lon, lat = random.uniform(-3, 3, n) + centre[0], random.uniform(-2, 2, n) + centre[1]
    wave = np.sin(lon) + np.cos(1.5 * lat)
    x = np.column_stack([wave + 0.3 * random.normal(size=n), random.normal(size=(n, 4)), random.integers(1, 5, n)])
    y = np.exp(2.5 + 0.6 * wave + 0.4 * x[:, 1] + 0.2 * (x[:, 5] == 2) + noise * random.normal(size=n))
    x[random.random(n) < 0.05, 2] = np.nan
    return Known(x.astype(np.float32), y, lon, lat, split_units(lon, lat, "blocks", 0.5))


def on_line(degrees, y, lat=0.0):
    """Return profiles along a parallel, with nothing to learn from but where they lie."""
    degrees = np.asarray(degrees, np.float64)
    n = len(degrees)
    return Known(np.zeros((n, 1), np.float32), np.asarray(y, np.float64), degrees, np.full(n, lat), np.arange(n))


def make(key, world=None, candidate=0, **settings):
    """Return a baseline of few trees."""
    baseline = BASELINES[key]
    given = {**baseline.fixed, **baseline.candidates[candidate], **settings}
    names = {each.name for each in dataclasses.fields(baseline.method)}
    given |= {
        name: value
        for name, value in {"trees": 60 if key == "kriging" else 25, "world": world, "classes": (5,)}.items()
        if name in names
    }
    return baseline.method(**given)
