"""Liveness, readiness and metrics of the gateway."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from redis.exceptions import RedisError

from langgraph_rq.producer.gateway.admission.access import METRICS_PATH
from langgraph_rq.producer.gateway.answers import HealthAnswer, PartAnswer, ReadyAnswer
from langgraph_rq.producer.gateway.dependencies import FromGateway, Gateway
from langgraph_rq.producer.gateway.probes.fleet_metrics import FleetMetrics
from langgraph_rq.producer.gateway.problems import documented
from langgraph_rq.producer.gateway.query import KnownQueryRoute
from langgraph_rq.shared.breaker.circuit_breaker import BreakerState, BreakerStatus, read_all_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.fleet import fleet_call

router = APIRouter(route_class=KnownQueryRoute, tags=["health"])


@router.get("/health", response_model=HealthAnswer, responses=documented(422))
async def health() -> Response:
    """Answer without touching anything else."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/ready",
    response_model=ReadyAnswer,
    responses={503: {"model": ReadyAnswer, "description": "At least one part is not ready"}, **documented(422)},
)
async def ready(gateway: FromGateway) -> Response:
    """Report whether Redis answers, a worker lives, and some model can be called."""
    parts = await _parts(gateway)
    is_ready = all(part.ready for part in parts.values())
    answer = ReadyAnswer(ready=is_ready, parts=parts)
    return JSONResponse(answer.model_dump(), 200 if is_ready else 503)


@router.get(
    METRICS_PATH, response_class=Response, responses={200: {"content": {"text/plain": {}}}, **documented(401, 422)}
)
async def metrics(gateway: FromGateway) -> Response:
    """Show the fleet's gauges and this process's metrics to Prometheus."""
    fleet = FleetMetrics(gateway.client.redis, gateway.queues, gateway.breaker, gateway.budget)
    content_type, body = await fleet.page()
    return Response(body + gateway.refused.page() + generate_latest(), media_type=content_type)


async def live_workers(gateway: Gateway) -> int:
    """Count the workers whose lease holds, by the server's clock."""
    return len((await scripts.run(gateway.client.redis, fleet_call())).workers)


async def breakers(gateway: Gateway) -> list[BreakerStatus]:
    """Read all breakers that were used in the last 24 hours."""
    return await scripts.run(gateway.client.redis, read_all_call(gateway.breaker))


async def _parts(gateway: Gateway) -> dict[str, PartAnswer]:
    try:
        workers, found = await asyncio.gather(live_workers(gateway), breakers(gateway))
    except scripts.ScriptNotLoadedError:
        return {
            "redis": PartAnswer(ready=True, detail="Redis answers"),
            "workers": PartAnswer(ready=False, detail="no worker has been here since Redis started"),
        }
    except (RedisError, OSError):
        return {"redis": PartAnswer(ready=False, detail="Redis does not answer")}
    is_open = [one.name for one in found if one.state is BreakerState.OPEN]
    parts = {
        "redis": PartAnswer(ready=True, detail="Redis answers"),
        "workers": PartAnswer(ready=workers > 0, detail=f"{workers} live workers"),
        "breakers": PartAnswer(
            ready=not found or len(is_open) < len(found), detail=f"{len(is_open)} of {len(found)} open"
        ),
    }
    if gateway.settings.ping_model:
        parts["model"] = await gateway.ping.ask()
    return parts
