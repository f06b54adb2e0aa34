"""Where webhooks do not go, and which Redis is not spoken to."""

import pytest

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import RedisSettings, load
from langgraph_rq.worker.telemetry.webhook import is_public


@pytest.mark.parametrize(
    "address",
    [
        "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
        "64:ff9b:1::a00:1",  # NAT64 of one's own network
        "2002:7f00:1::1",  # 6to4 of 127.0.0.1
        "2002:a9fe:a9fe::1",  # 6to4 of 169.254.169.254
        "192.88.99.1",  # a relay of 6to4
        "2001:0:7f00:1::1",  # Teredo
        "fec0::1",  # site-local
        "fc00::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::",
        "0.0.0.0",
        "100.64.0.1",
        "198.18.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "ff0e::1",
        "5f00::1",
        "3fff::1",
        "2001:db8::1",
    ],
)
def test_address_that_may_lead_into_ones_own_network_is_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:220:1::1", "2a00:1450:4001:82a::200e"])
def test_ordinary_address_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "rediss://redis.example/0?ssl_cert_reqs=none",
        "rediss://redis.example/0?ssl_cert_reqs=optional",
        "rediss://redis.example/0?ssl_cert_reqs=none&ssl_cert_reqs=required",
        "rediss://redis.example/0?ssl_cert_reqs=required&ssl_cert_reqs=none",
        "rediss://redis.example/0?ssl_check_hostname=no&ssl_check_hostname=yes",
        "rediss+sentinel://redis.example/agents?ssl_cert_reqs=none",
        "redis:///0?host=redis.example",
        "rediss:///0?host=redis.example&ssl_cert_reqs=none",
    ],
)
def test_tls_that_checks_nothing_is_refused_however_it_is_written(url):
    with pytest.raises(SettingsError, match="expected rediss://"):
        load(RedisSettings, redis_url=url)
