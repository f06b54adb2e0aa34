"""A stream of the stock SDK ends with every event once and in order, whatever dies while it is read."""

import asyncio
from contextlib import ExitStack

import pytest
from langgraph_sdk import get_client

from langgraph_rq.shared.dev.embedded_redis import EmbeddedRedis
from langgraph_rq.shared.queue.events import order
from tests.gateways import free_port, start_gateway
from tests.installation import start_worker
from tests.langgraph_api.servers import PROJECT
from tests.waiting import until_sync

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
INPUT = {"name": "a", "ticks": 20, "tick_s": 0.2}


class Stack:
    """Redis, two workers and a gateway, of which each can be killed and replaced."""

    def __init__(self, folder, stack):
        self._folder, self._stack, self._started = folder, stack, 0
        self.redis = stack.enter_context(EmbeddedRedis(tcp=True, appendfsync="always"))
        self._environment = {"REDIS_URL": self.redis.url, "LGRQ_LEASE_S": "3"}
        self._port = free_port()
        self.workers = [self._start_worker(), self._start_worker()]
        self.gateway = self._start_gateway()
        self.url = self.gateway.url

    def _start_worker(self):
        self._started += 1
        folder = self._folder / f"worker {self._started}"
        folder.mkdir()
        worker = self._stack.enter_context(start_worker(folder, self._environment, "--config", str(PROJECT)))
        worker.wait_until_ready()
        return worker

    def _start_gateway(self):
        gateway = self._stack.enter_context(start_gateway(self._folder, self._environment, self._port))
        gateway.wait_until_ready()
        return gateway

    def kill_gateway(self, _run_id):
        self.gateway.process.kill()
        self.gateway.process.wait()
        self.gateway = self._start_gateway()

    def kill_worker(self, run_id):
        def those_that_run_it():
            return [
                worker
                for worker in self.workers
                if any(event["task_id"] == run_id for event in worker.events("task.started"))
            ]

        until_sync(those_that_run_it)
        (worker,) = those_that_run_it()
        worker.process.kill()

    def kill_redis(self, _run_id):
        self.redis.kill()
        self.redis.start()


async def test_stream_ends_with_every_event_once_whatever_dies(tmp_path):
    with ExitStack() as stack:
        servers = await asyncio.to_thread(Stack, tmp_path, stack)
        async with get_client(url=servers.url, api_key=None) as sdk:
            for kill, attempts in ((servers.kill_gateway, 1), (servers.kill_redis, 1), (servers.kill_worker, 2)):
                thread = (await sdk.threads.create())["thread_id"]
                heard, killing = [], None
                modes = ["updates", "custom", "values"]
                async for part in sdk.runs.stream(thread, "slow", input=INPUT, stream_mode=modes):
                    heard.append(part)
                    if part.data == {"tick": 5} and killing is None:
                        killing = asyncio.create_task(asyncio.to_thread(kill, heard[0].data["run_id"]))
                await killing
                (run,) = await sdk.runs.list(thread)
                rest = sdk.runs.join_stream(thread, run["run_id"], last_event_id="-1")
                assert [(part.event, part.data) for part in heard] == [(part.event, part.data) async for part in rest]
                places = [order(part.id) for part in heard]
                assert places == sorted(set(places))
                assert heard[-1].data["status"] == "success"
                assert [part.data["attempt"] for part in heard if part.event == "metadata"] == [*range(1, attempts + 1)]
                assert sum(part.event == "updates" for part in heard) == 2
