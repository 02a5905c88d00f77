"""Units are asked about by the size of the values."""

import numpy as np
import pytest

from soilcarbon.io.files import UserError
from soilcarbon.quantities import QUANTITIES, check_plausible, possible, to_standard

USUAL = {
    "depth": [0, 10, 30, 100], "thickness": [10, 20, 30, 40], "stones": [0, 5, 40, 2], "bulk_density": [1300, 1550, 1200, 900],
    "soc": [12, 4, 35, 300], "year": [1987, 2009, 2015], "longitude": [12, -70, 200], "latitude": [12, -70, 60],
    "temperature": [-3, 12, 24], "precipitation": [300, 800, 2400],
}  # fmt: skip


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_usual_values_pass_in_every_unit(quantity):
    values = np.array([*USUAL[quantity], np.nan])
    for unit, (factor, offset) in QUANTITIES[quantity].units.items():
        check_plausible((values - offset) / factor, quantity, unit)


@pytest.mark.parametrize(
    ("quantity", "unit", "values", "looks"),
    [
        ("stones", "percent", [0, 0.4, 0.1], "fraction"),
        ("stones", "percent", [400, 0, 350], "per_mille"),
        ("stones", "percent", [20, 0, 35, 80, 150], "per_mille"),
        ("bulk_density", "g/cm3", [1300, 1550], "kg/m3"),
        ("bulk_density", "kg/m3", [1.3, 1.5], "g/cm3"),
        ("temperature", "degC", [285.1, 290, 279], "K"),
        ("temperature", "degC", [123, 95, 180, -12], "0.1 degC"),
        ("temperature", "degC", [2851, 2902], "0.1 K"),
        ("precipitation", "mm", [0.8, 1.2], "m"),
        ("precipitation", "mm", [2.5e-5, 3e-5], "kg m-2 s-1"),
        ("precipitation", "mm", [8000, 12500, 15000], "0.1 mm"),
        ("thickness", "cm", [0.1, 0.2, 0.4], "m"),
        ("thickness", "cm", [100, 200, 300], "mm"),
        ("soc", "g/kg", [12000, 35000], "mg/kg"),
        ("soc", "g/kg", [0.012, 0.035], "g/g"),
    ],
)
def test_another_unit_is_named(quantity, unit, values, looks):
    with pytest.raises(UserError, match=rf"^here: .* look like .*{looks}.*--its_unit"):
        check_plausible(np.array(values, float), quantity, unit, "here", "--its_unit")


def test_few_impossible_values_are_the_callers():
    check_plausible(np.array([12, 9, 7, 9999.0]), "temperature")
    assert possible(np.array([12, 9999.0, np.nan]), "temperature", "degC").tolist() == [True, False, False]


def test_stated_unit_is_believed_unless_most_values_are_impossible():
    check_plausible(np.array([0.2, 0.6]), "stones", "percent", stated=True)
    with pytest.raises(UserError, match="2 of 2 values"):
        check_plausible(np.array([400, 350.0]), "stones", "percent", stated=True)


def test_unknown_unit():
    with pytest.raises(ValueError, match="is none of"):
        to_standard(np.ones(1), "soc", "furlong")
