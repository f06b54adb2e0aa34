from langgraph_rq.shared.dev.settings_page import page
from langgraph_rq.shared.settings import ALL
from tests.deployment import ROOT


def test_configuration_page_is_what_the_settings_say():
    assert (ROOT / "docs/configuration.md").read_text() == page(), "run `make config-docs`"


def test_every_variable_is_on_the_page():
    assert [name for settings in ALL for name in settings.names() if f"`{name}`" not in page()] == []
