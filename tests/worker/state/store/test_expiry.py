"""Items that expire: at the time that their put gave, counted from the last read if reads refresh it."""

import pytest
from langgraph.store.base import PutOp

from tests.waiting import until

ADA = ("users", "ada")
NAME = "default:users.ada"


@pytest.fixture
def let_expire(redis_client):
    """Let the time of items be over, though Redis has not deleted their keys."""

    def expire(*names):
        redis_client.zadd(f"agent:store_expiry:{NAME}", dict.fromkeys(names, 1))

    return expire


@pytest.fixture
def left_ms(redis_client):
    """How long an item is kept."""

    def left(name):
        seconds, microseconds = redis_client.time()
        return redis_client.zscore(f"agent:store_expiry:{NAME}", name) - seconds * 1000 - microseconds / 1000

    return left


async def test_item_whose_time_is_over_is_gone_for_every_reader(store, let_expire):
    await store.aput(ADA, "k", {"n": 1}, ttl=1)
    await store.aput(ADA, "stays", {"n": 2})
    let_expire("k")
    assert await store.aget(ADA, "k") is None
    assert [item.key for item in await store.asearch(ADA, limit=1)] == ["stays"]


async def test_namespace_whose_items_are_all_over_is_not_listed(store, let_expire):
    await store.aput(ADA, "k", {}, ttl=1)
    await store.aput(("users", "bob"), "k", {})
    let_expire("k")
    assert await store.alist_namespaces() == [("users", "bob")]


async def test_item_put_again_after_its_time_is_a_new_one(store, let_expire):
    await store.aput(ADA, "k", {}, ttl=1)
    before = await store.aget(ADA, "k")
    let_expire("k")
    await store.aput(ADA, "k", {}, ttl=1)
    assert (await store.aget(ADA, "k")).created_at > before.created_at


MANY = [f"k{n:03}" for n in range(350)]
"""More than a few scripts delete."""


async def test_more_items_than_one_script_deletes_are_all_over_at_once(store, let_expire):
    await store.aput(ADA, "stays", {})
    await store.abatch([PutOp(ADA, name, {}, ttl=1) for name in MANY])
    let_expire(*MANY)
    assert [item.key for item in await store.asearch(ADA, limit=1)] == ["stays"]
    assert await store.aget(ADA, MANY[-1]) is None


async def test_namespace_of_many_items_that_are_all_over_is_not_listed(store, let_expire):
    await store.abatch([PutOp(ADA, name, {}, ttl=1) for name in MANY])
    let_expire(*MANY)
    assert await store.alist_namespaces() == []


async def test_item_that_is_over_and_not_deleted_yet_lends_its_time_of_creation_to_no_other(store, let_expire):
    await store.abatch([PutOp(ADA, name, {}, ttl=1) for name in MANY])
    before = await store.aget(ADA, MANY[-1])
    let_expire(*MANY)
    await store.aput(ADA, MANY[-1], {})
    assert (await store.aget(ADA, MANY[-1])).created_at > before.created_at


async def test_namespace_whose_keys_redis_has_deleted_is_forgotten(store, redis_client):
    await store.aput(ADA, "k", {}, ttl=1)
    for key in redis_client.keys(f"agent:*:{NAME}"):
        redis_client.delete(key)
    assert await store.alist_namespaces() == []
    assert redis_client.keys() == []


async def test_register_of_namespaces_does_not_keep_those_that_redis_has_deleted(store, redis_client):
    await store.abatch([PutOp(("users", f"gone-{n}"), "k", {}, ttl=1) for n in range(100)])
    redis_client.delete(*redis_client.keys("agent:*:default:users.gone-*"))
    for n in range(300):
        await store.aput(("users", f"new-{n}"), "k", {})
    left = redis_client.zrange("agent:store_namespaces:default", 0, -1)
    assert sum("new" in str(namespace) for namespace in left) == 300
    assert len(left) < 350


async def test_read_lets_the_time_begin_anew_unless_it_is_told_not_to(store, redis_client, left_ms):
    await store.aput(ADA, "k", {"n": 1}, ttl=10)
    keys = [key for key in redis_client.scan_iter() if redis_client.pexpire(key, 30_000)]
    redis_client.zincrby(f"agent:store_expiry:{NAME}", -570_000, "k")
    await store.aget(ADA, "k", refresh_ttl=False)
    await store.asearch(ADA, refresh_ttl=False)
    assert left_ms("k") < 31_000
    await store.asearch(ADA, filter={"n": 1})
    assert left_ms("k") > 590_000
    assert min(map(redis_client.pttl, keys)) > 590_000
    redis_client.zincrby(f"agent:store_expiry:{NAME}", -570_000, "k")
    await store.aget(ADA, "k")
    assert left_ms("k") > 590_000


async def test_only_the_items_of_the_page_are_refreshed(store, redis_client, left_ms):
    for key in ("other", "found"):
        await store.aput(ADA, key, {"key": key}, ttl=10)
        redis_client.zincrby(f"agent:store_expiry:{NAME}", -300_000, key)
    await store.asearch(ADA, filter={"key": "found"})
    assert left_ms("found") > 590_000
    assert left_ms("other") < 301_000


async def test_keys_of_a_namespace_live_as_long_as_its_longest_lived_item(store, redis_client):
    await store.aput(ADA, "long", {}, ttl=60)
    await store.aput(ADA, "short", {}, ttl=1)
    assert all(3_500_000 < redis_client.pttl(key) <= 3_600_000 for key in redis_client.scan_iter())
    await store.aput(ADA, "for ever", {})
    assert redis_client.pttl(f"agent:store:{NAME}") == -1
    assert redis_client.pttl("agent:store_namespaces:default") == -1
    await store.aput(ADA, "short", {}, ttl=1)
    assert redis_client.pttl(f"agent:store:{NAME}") == -1


@pytest.mark.parametrize("order", [("short", "for ever"), ("for ever", "short")])
async def test_item_whose_time_is_over_stays_gone_beside_one_that_is_kept_for_ever(store, redis_client, order):
    for key in order:
        await store.aput(ADA, key, {}, ttl=0.002 if key == "short" else None)

    async def is_over():
        return await store.aget(ADA, "short", refresh_ttl=False) is None

    await until(is_over)
    assert redis_client.pttl(f"agent:store_expiry:{NAME}") == -1
    assert [item.key for item in await store.asearch(ADA)] == ["for ever"]
    assert not redis_client.exists(f"agent:store_expiry:{NAME}")


async def test_read_keeps_the_times_of_a_namespace_with_an_item_that_is_kept_for_ever(store, redis_client):
    await store.aput(ADA, "for ever", {})
    await store.aput(ADA, "short", {}, ttl=1)
    redis_client.pexpire(f"agent:store_expiry:{NAME}", 30_000)  # as an earlier version left it
    await store.aget(ADA, "short")
    assert redis_client.pttl(f"agent:store_expiry:{NAME}") == -1


async def test_put_without_a_time_keeps_an_item_that_would_have_expired(store, redis_client):
    await store.aput(ADA, "k", {}, ttl=1)
    await store.aput(ADA, "k", {"n": 2})
    assert not redis_client.exists(f"agent:store_expiry:{NAME}")
    assert {redis_client.pttl(key) for key in redis_client.scan_iter()} == {-1}


async def test_default_time_is_for_puts_that_name_none(opened, left_ms, redis_client):
    async with opened(ttl={"default_ttl": 5, "refresh_on_read": False}) as store:
        await store.aput(ADA, "default", {})
        await store.aput(ADA, "own", {}, ttl=1)
        await store.aput(ADA, "none", {}, ttl=None)
        assert 290_000 < left_ms("default") <= 300_000
        assert 50_000 < left_ms("own") <= 60_000
        assert redis_client.zscore(f"agent:store_expiry:{NAME}", "none") is None
        redis_client.zincrby(f"agent:store_expiry:{NAME}", -100_000, "default")
        await store.aget(ADA, "default")
        assert left_ms("default") < 201_000


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
async def test_time_that_is_none_is_refused(ttl, store):
    with pytest.raises(ValueError, match="expected a ttl of more than 0 minutes"):
        await store.aput(ADA, "k", {}, ttl=ttl)
