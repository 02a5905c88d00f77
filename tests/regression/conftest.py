"""Simulated profiles for tests of estimators."""

import pytest
from simulated import make_samples


@pytest.fixture(scope="session")
def samples():
    """300 profiles of a region."""
    return make_samples()


@pytest.fixture(scope="session")
def places():
    """150 places of the same region."""
    return make_samples(150, seed=1)


@pytest.fixture(scope="session")
def abroad():
    """400 profiles of another region."""
    return make_samples(400, seed=2, centre=(40.0, 20.0))
