"""Workers of one graph that tear its threads apart are named, by the later one and by the doctor."""

import pytest

from langgraph_rq.producer.doctor.finding import Level
from langgraph_rq.producer.doctor.infrastructure import threads_are_in_one_place
from langgraph_rq.producer.doctor.system import System
from langgraph_rq.shared.announcements.state_kept import StateKept
from langgraph_rq.shared.connections.clients import open_sync
from langgraph_rq.shared.queue.keys import WORKERS
from langgraph_rq.worker.fleet.state_places import compare_places
from tests.fleet import PLUS_ONE, ended, worker
from tests.installation import SMALL_PROJECT, start_worker
from tests.waiting import until

EVENT = "state.settings_differ"
HERE = StateKept("here", ("plain",))


@pytest.fixture
def examined(redis_url):
    """The doctor's view of the fleet, anew each time."""
    with open_sync(redis_url) as redis:
        yield lambda: System({}, redis, redis)


async def test_worker_that_keeps_threads_elsewhere_names_itself_and_the_others(redis_url, caplog, examined):
    async with worker(redis_url, {"g": PLUS_ONE}, state_kept=HERE) as first:
        assert EVENT not in caplog.text
        async with worker(redis_url, {"g": PLUS_ONE, "h": PLUS_ONE}, state_kept=StateKept("there")) as second:
            await until(lambda: EVENT in caplog.text)
            finding = threads_are_in_one_place(examined())
    said = [line.partition(EVENT)[2] for line in caplog.text.splitlines() if EVENT in line]
    assert said == [f" worker={second.name} own=there other={first.name} others=here"]
    assert (finding.level, finding.reason) == (
        Level.FAIL,
        "the workers of g keep threads in different places, or encrypt them with different secrets: here; there",
    )
    assert "LGRQ_CHECKPOINT_REDIS_URL" in finding.fix


async def test_workers_that_share_the_place_or_no_graph_are_fine(redis_url, caplog, examined):
    async with (
        worker(redis_url, {"g": PLUS_ONE}, state_kept=HERE),
        worker(redis_url, {"g": PLUS_ONE}, state_kept=HERE),
        worker(redis_url, {"h": PLUS_ONE}, state_kept=StateKept("there")),
        worker(redis_url, {"g": PLUS_ONE}),  # an earlier version, which does not say it
    ):
        await until(lambda: len(examined().fleet.workers) == 4)
        finding = threads_are_in_one_place(examined())
    assert finding.level is Level.PASS
    assert EVENT not in caplog.text


async def test_worker_runs_tasks_beside_an_entry_of_a_worker_that_cannot_be_read(redis_url, redis_client, client):
    redis_client.zadd(WORKERS, {"planted": 10**14})
    redis_client.hset("rq:worker:planted", mapping={"state": b"\xff", "state_kept": b"\xff", "graphs": ",g,"})
    async with worker(redis_url, {"g": PLUS_ONE}, state_kept=HERE):
        await until(lambda: redis_client.zscore("agent:graphs", "g"))
        task_id = client.submit({"n": 1}, graph="g").task_id
        assert (await ended(client, task_id)).result == {"n": 2}


def test_worker_whose_lease_is_kept_does_not_end_when_redis_goes_away(tmp_path):
    with open_sync(f"unix://{tmp_path}/nowhere") as redis:
        compare_places(redis, "one", "rq:worker:one", ["g"], HERE)


@pytest.mark.parametrize(
    ("one", "other", "fits"),
    [
        (("plain",), ("a",), False),
        (("a",), ("b",), False),
        (("a",), ("a", "b"), True),
        (("a", "b"), ("b", "a"), True),
        (("b", "a"), ("b",), True),
        (("a",), ("b", "a"), False),
        (("plain", "a"), ("a", "plain"), True),
        ((), ("a",), True),
    ],
    ids=[
        "one encrypts",
        "two secrets",
        "first step of a replacement",
        "second step",
        "third step",
        "a step left out",
        "the second step to the first secret",
        "an earlier version",
    ],
)
def test_workers_fit_whose_secrets_each_read_what_the_other_writes(one, other, fits):
    first, second = StateKept("here", one), StateKept("here", other)
    assert (first.fits(second), second.fits(first)) == (fits, fits)
    assert not first.fits(StateKept("there", one))


@pytest.mark.parametrize(
    ("other", "place"),
    [
        ({"LGRQ_CHECKPOINTS": "false"}, "nowhere (LGRQ_CHECKPOINTS=false)"),
        ({"LGRQ_CHECKPOINT_REDIS_URL": "{url}1"}, "redis, {url}1"),
        ({"LGRQ_STATE_KEY": "n" * 32}, "redis, beside the tasks, with the secrets 78e85f5a"),
    ],
    ids=["no checkpoints", "another redis", "another secret"],
)
def test_settings_that_tear_threads_apart_are_noticed(redis_url, tmp_path, examined, other, place):
    environment = {"REDIS_URL": redis_url, "OPENAI_API_KEY": "unused"}
    base = redis_url.removesuffix("0")  # of the database's number
    changed = {name: value.format(url=base) for name, value in other.items()}
    (tmp_path / "second").mkdir()
    with (
        start_worker(tmp_path, environment, "--config", str(SMALL_PROJECT)) as first,
        start_worker(tmp_path / "second", environment | changed, "--config", str(SMALL_PROJECT)) as second,
    ):
        first.wait_until_ready()
        second.wait_until_ready()
        finding = threads_are_in_one_place(examined())
        places = {line[name] for one in (first, second) for line in one.events(EVENT) for name in ("own", "others")}
    assert places == {"redis, beside the tasks", place.format(url=base)}
    assert finding.level is Level.FAIL
    assert all(place in finding.reason for place in places)
