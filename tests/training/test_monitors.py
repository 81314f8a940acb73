"""Figures are shown so that they can be read."""

import pytest

from bertsmith.training.monitors import human


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (999.4, "999"), (999.6, "1 k"), (12_345, "12.3 k"), (999_600, "1 M"), (1.9e20, "190 E"), (1e21, "1 Z")],
)
def test_large_numbers_have_the_prefix_that_fits(value: float, shown: str) -> None:
    assert human(value) == shown
