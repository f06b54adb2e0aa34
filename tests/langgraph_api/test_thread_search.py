"""Searches of threads through LangGraph's stock SDK: by metadata among all of them, and by what else they have."""

import json

from langgraph_rq.producer.gateway.langgraph_api.assistants import assistant_id
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.threads.rows import create_call
from tests.langgraph_api.servers import serving


async def test_threads_are_found_by_their_metadata_behind_any_number_of_others(redis_url, redis_client, aredis):
    async with serving(redis_url, redis_client) as sdk:
        mine = await sdk.threads.create(metadata={"owner": "ann", "tags": ["a"]})
        used = await sdk.threads.create(metadata={"owner": "bob"}, graph_id="chat")
        await sdk.runs.wait(used["thread_id"], "nested", input={"value": 1})
        for start in range(0, 6_000, 1_000):
            calls = [
                create_call(f"other-{n}", "default", json.dumps({"owner": "cid"})) for n in range(start, start + 1_000)
            ]
            await scripts.run_many(aredis, calls)

        async def found(**metadata):
            return [one["thread_id"] for one in await sdk.threads.search(metadata=metadata, select=["thread_id"])]

        assert await found(owner="ann") == await found(owner="ann", tags=["a"]) == [mine["thread_id"]]
        assert await found(owner="ann", tags=["b"]) == []
        assert await found(graph_id="nested") == await found(assistant_id=assistant_id("nested")) == [used["thread_id"]]
        assert await found(graph_id="chat") == []
        assert await sdk.threads.count(metadata={"owner": "bob"}) == 1
        assert len(await sdk.threads.search(metadata={"owner": "cid"}, limit=1_000, offset=3_000)) == 1_000
        await sdk.threads.update(mine["thread_id"], metadata={"owner": "dan"})
        assert (await found(owner="ann"), await found(owner="dan")) == ([], [mine["thread_id"]])
        await sdk.threads.delete(mine["thread_id"])
        assert await found(owner="dan") == []
