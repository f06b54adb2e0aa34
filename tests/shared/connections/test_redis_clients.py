import asyncio

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from langgraph_rq.shared.connections.clients import is_outage, leaves_host_in_plain, open_async, open_sync
from langgraph_rq.shared.connections.sentinel import SentinelUrl
from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import RedisSettings, load, mask_url

HERE = [
    "redis://localhost:6379/0",
    "redis://127.0.0.1",
    "redis://user:word@[::1]:6379/0",
    "redis:///0",
    "unix:///run/redis.sock?db=0",
    "redis+sentinel://localhost,127.0.0.1:26380/agents",
]
SAFE = ["rediss://redis:6379/0", "rediss://user:word@redis/0?ssl_ca_certs=/ca.crt", "rediss+sentinel://a,b/agents"]
OPEN = [
    "redis://redis:6379/0",
    "redis://user:word@10.0.0.7/0",
    "redis+sentinel://localhost,elsewhere/agents",
    "rediss://redis/0?ssl_cert_reqs=none",
    "rediss://redis/0?ssl_check_hostname=false",
]


@pytest.mark.parametrize("url", HERE + SAFE)
def test_this_host_and_verified_tls_are_accepted(url):
    assert load(RedisSettings, redis_url=url).redis_url.get_secret_value() == url


@pytest.mark.parametrize("url", OPEN)
def test_another_host_without_verified_tls_is_refused(url):
    assert leaves_host_in_plain(url)
    with pytest.raises(SettingsError, match="REDIS_URL: expected rediss://") as error:
        load(RedisSettings, redis_url=url)
    assert "word" not in str(error.value)


def test_plain_checkpoint_redis_elsewhere_is_refused_too():
    with pytest.raises(SettingsError, match="LGRQ_CHECKPOINT_REDIS_URL: expected rediss://"):
        load(RedisSettings, redis_url="redis://localhost", checkpoint_redis_url="redis://other")


def test_plain_redis_elsewhere_can_be_accepted_on_purpose():
    assert load(RedisSettings, redis_url=OPEN[0], insecure_redis=True).insecure_redis


@pytest.mark.parametrize(
    "url",
    [
        "http://redis",
        "redis://localhost/agents",
        "redis+sentinel://host-without-service",
        "redis+sentinel:///agents",
    ],
)
def test_url_that_no_client_understands_is_refused(url):
    with pytest.raises(SettingsError, match=r"REDIS_URL: expected redis://host:port/db"):
        load(RedisSettings, redis_url=url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost?ssl_ca_certs=/ca.crt", "expected options of redis-py's connections, those for TLS with"),
        ("unix:///run/redis.sock?data_base=1", "expected options of redis-py's connections"),
        ("redis://localhost?decode_responses=true", "expected none of the options decode_responses, "),
        ("redis+sentinel://localhost/agents?decode_responses=1", "expected none of the options decode_responses, "),
    ],
)
def test_option_with_which_no_connection_works_is_refused(url, expected):
    with pytest.raises(SettingsError, match=f"^REDIS_URL: {expected}.*, got: "):
        load(RedisSettings, redis_url=url)


def test_sentinel_url_names_sentinels_service_and_how_to_connect():
    where = SentinelUrl.parse(
        "rediss+sentinel://worker:s%40fe@one,two:26380,[::1]:5000/agents/3"
        "?ssl_ca_certs=/ca.crt&sentinel_username=watcher&sentinel_password=hush"
    )
    assert where.sentinels == (("one", 26379), ("two", 26380), ("::1", 5000))
    assert where.service == "agents"
    tls = {"ssl": True, "ssl_ca_certs": "/ca.crt"}
    assert where.redis_options == {"username": "worker", "password": "s@fe", "db": 3, **tls}
    assert where.sentinel_options == {"username": "watcher", "password": "hush", **tls}


def test_masked_url_shows_no_password_of_redis_or_of_its_sentinels():
    masked = mask_url("redis+sentinel://worker:secret1@one/agents?sentinel_password=secret2&db=0")
    assert masked == "redis+sentinel://***@one/agents?sentinel_password=***&db=0"


async def test_clients_of_absent_sentinels_report_an_outage_and_leave_nothing_open():
    url = "redis+sentinel://127.0.0.1:1,127.0.0.1:2/agents"
    async with open_async(url) as client:
        with pytest.raises(RedisConnectionError) as error:
            await client.ping()
    assert is_outage(error.value)
    with open_sync(url) as client, pytest.raises(RedisConnectionError) as error:
        client.ping()
    assert is_outage(error.value)


@pytest.mark.parametrize(
    "answer",
    [
        "READONLY You can't write against a read only replica.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "BUSY Redis is busy running a script.",
        "LOADING Redis is loading the dataset in memory",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOREPLICAS Not enough good replicas to write.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    ],
)
def test_answer_of_a_redis_that_cannot_write_now_is_an_outage(answer):
    assert is_outage(BaseParser.parse_error(answer))
    assert not is_outage(BaseParser.parse_error("WRONGTYPE Operation against a key holding the wrong kind of value"))


async def test_connections_that_a_restarted_server_has_closed_are_replaced_before_their_use():
    with EmbeddedRedis(tcp=True) as server, open_sync(server.url) as client:
        async with open_async(server.url) as async_client:
            client.ping()
            await asyncio.gather(*(async_client.ping() for _ in range(5)))
            server.kill()
            await asyncio.to_thread(server.start)
            assert client.ping()
            assert await asyncio.gather(*(async_client.ping() for _ in range(5)))
