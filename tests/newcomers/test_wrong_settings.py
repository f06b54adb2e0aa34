"""A setting of the wrong form: the error shows the form, and what came."""

import pytest

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import WorkerSettings, load
from tests.newcomers.programs import produce, work


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


def test_word_that_is_none_of_a_setting_is_shown_beside_those_that_are(monkeypatch):
    monkeypatch.setenv("LGRQ_LOG_LEVEL", "loud")
    with pytest.raises(SettingsError, match=r"^LGRQ_LOG_LEVEL: expected debug, info, warning or error, got: loud$"):
        load(WorkerSettings)


def test_env_file_that_is_no_text_is_named(tmp_path, monkeypatch):
    (tmp_path / ".env").write_bytes(b"\xff\xfeLGRQ_LEASE_S=5\n")
    monkeypatch.chdir(tmp_path)
    assert produce("workers").error == f"{tmp_path}/.env: expected a readable file of settings, got: not UTF-8 text"
