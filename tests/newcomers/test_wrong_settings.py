"""A setting of the wrong form: the error shows the form, and what came."""

import pytest

from tests.newcomers.programs import work


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param(
            "gpt-4o=3", 'expected JSON such as {"my-model": [0.5, 1.5]}, got: gpt-4o=3', marks=pytest.mark.slow
        ),
        ('{"gpt-4o": 3}', 'gpt-4o: expected a valid tuple such as {"my-model": [0.5, 1.5]}, got: 3'),
    ],
)
def test_prices_of_the_wrong_form_are_shown_beside_an_example(given, says):
    assert work("--settings", LGRQ_BUDGET_PRICES=given).error == f"LGRQ_BUDGET_PRICES: {says}"
