"""Runs on a thread are shown as long as the thread, also when all else that was kept of their tasks is forgotten."""

from langgraph_rq import AsyncClient, State
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.records import read_runs_call
from tests.langgraph_api.servers import serving


def without_state(run):
    return {name: value for name, value in run.items() if name not in {"status", "updated_at"}}


async def test_runs_are_shown_when_their_results_and_hashes_are_forgotten(redis_url, redis_client, aredis):
    async with serving(redis_url, redis_client) as sdk, AsyncClient(redis_url) as client:
        thread_id = (await sdk.threads.create(metadata={"topic": "records"}))["thread_id"]
        made = await sdk.runs.create(thread_id, "nested", input={"value": 1}, metadata={"source": "test"})
        await sdk.runs.join(thread_id, made["run_id"])
        failed = await sdk.runs.create(thread_id, "broken", input={"steps": []})
        await client.wait(failed["run_id"], 20)
        for run_id in (made["run_id"], failed["run_id"]):
            redis_client.delete(*(key for key in redis_client.scan_iter(f"*:{run_id}") if "thread" not in key))
        found, listed = await sdk.runs.get(thread_id, made["run_id"]), await sdk.runs.list(thread_id)
        assert without_state(found) == without_state(made)
        assert found["kwargs"]["input"] == {"value": 1}
        assert (found["metadata"]["source"], found["metadata"]["topic"]) == ("test", "records")
        assert [(run["run_id"], run["status"]) for run in listed] == [
            (failed["run_id"], "error"), (made["run_id"], "success"),
        ]  # fmt: skip
        (record,) = await scripts.run(aredis, read_runs_call([failed["run_id"]]))
        assert (record.error_type, record.attempts, record.thread) == ("graph_error", 1, thread_id)
        assert [one.task_id for one in (await client.tasks(state=State.ERROR)).tasks] == [failed["run_id"]]
        alone = await sdk.runs.create(None, "nested", input={"value": 1}, metadata={"source": "alone"})
        await client.wait(alone["run_id"], 20)
        redis_client.delete(f"agent:task:{alone['run_id']}", f"rq:job:{alone['run_id']}")
        assert (await sdk.runs.get(alone["thread_id"], alone["run_id"]))["metadata"]["source"] == "alone"
