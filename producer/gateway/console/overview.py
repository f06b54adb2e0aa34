"""What was spent today, and how busy the fleet is: to a tenant its own part only."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from langgraph_rq.producer.gateway.answers import BreakerAnswer, MeterAnswer, UsageAnswer
from langgraph_rq.producer.gateway.dependencies import FromCaller
from langgraph_rq.producer.gateway.probes.health import breakers
from langgraph_rq.producer.gateway.problems import documented
from langgraph_rq.producer.gateway.query import KnownQueryRoute
from langgraph_rq.shared.budget.token_budget import Meter, Payer, usage_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.fleet import fleet_call
from langgraph_rq.shared.queue.keys import tenant_open_key
from langgraph_rq.shared.tasks import Name

router = APIRouter(route_class=KnownQueryRoute, tags=["overview"])


@router.get("/usage", response_model=UsageAnswer, responses=documented(401, 422, 503))
async def usage(
    caller: FromCaller, user_id: Annotated[Name | None, Query(description="Only what this user has spent.")] = None
) -> Response:
    """Say what was spent today, of which limits, and how busy the fleet is; with API keys, what the tenant spent."""
    gateway, redis = caller.gateway, caller.client.redis
    sees_fleet = gateway.settings.keys is None
    payer = None if sees_fleet and not user_id else Payer(caller.tenant, user_id)
    spent = await scripts.run(redis, usage_call(gateway.budget, payer=payer, scope="user" if user_id else "tenant"))
    fleet = await scripts.run(redis, fleet_call())
    found = await breakers(gateway) if sees_fleet else []
    answer = UsageAnswer(
        resets_at=datetime.fromtimestamp(spent.resets_at_ms / 1000, UTC),
        tokens=_meter(spent.tokens),
        cost_nano_usd=_meter(spent.cost),
        open_tasks=fleet.open if sees_fleet else await redis.zcard(tenant_open_key(caller.tenant)),
        queued_tasks=sum(queue.runnable for queue in fleet.queues) if sees_fleet else None,
        workers=len(fleet.workers) if sees_fleet else None,
        breakers=[BreakerAnswer(name=one.name, state=one.state.value) for one in found],
    )
    return JSONResponse(answer.model_dump(mode="json"))


def _meter(meter: Meter) -> MeterAnswer:
    return MeterAnswer(used=meter.used, held=meter.held, limit=meter.limit)
