import re

from tests.deployment import ROOT
from tests.documented_keys import OWNERS, documented


def test_every_key_that_a_module_documents_is_in_the_reference():
    written = re.findall(r"`((?:agent|rq):[^`]*)`", (ROOT / "docs/redis-keys.md").read_text())
    patterns = {re.sub(r"<[^>]*>", "*", key) for key in written}
    missing = {pattern for module in OWNERS for pattern, _ in documented(module)} - patterns
    assert missing == set()
