"""What the fleet has spent today, and how busy it is."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from langgraph_rq.producer.gateway.answers import BreakerAnswer, MeterAnswer, UsageAnswer
from langgraph_rq.producer.gateway.dependencies import FromCaller
from langgraph_rq.producer.gateway.probes.health import breakers
from langgraph_rq.producer.gateway.problems import documented
from langgraph_rq.shared.budget.token_budget import Meter, Payer, usage_call
from langgraph_rq.shared.connections import scripts
from langgraph_rq.shared.queue.fleet import fleet_call
from langgraph_rq.shared.tasks import Name

router = APIRouter(tags=["overview"])


@router.get("/usage", response_model=UsageAnswer, responses=documented(401, 422, 503))
async def usage(
    caller: FromCaller, user_id: Annotated[Name | None, Query(description="Only what this user has spent.")] = None
) -> Response:
    """Say what was spent today, of which limits, and how busy the fleet is."""
    gateway = caller.gateway
    payer = Payer(caller.tenant, user_id) if user_id else None
    spent = await scripts.run(caller.client.redis, usage_call(gateway.budget, payer=payer))
    fleet = await scripts.run(caller.client.redis, fleet_call())
    answer = UsageAnswer(
        resets_at=datetime.fromtimestamp(spent.resets_at_ms / 1000, UTC),
        tokens=_meter(spent.tokens),
        cost_nano_usd=_meter(spent.cost),
        open_tasks=fleet.open,
        queued_tasks=sum(queue.runnable for queue in fleet.queues),
        workers=len(fleet.workers),
        breakers=[BreakerAnswer(name=one.name, state=one.state.value) for one in await breakers(gateway)],
    )
    return JSONResponse(answer.model_dump(mode="json"))


def _meter(meter: Meter) -> MeterAnswer:
    return MeterAnswer(used=meter.used, held=meter.held, limit=meter.limit)
