"""The dependencies of routes: what all requests of a process share, and the caller of one request."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from langgraph_rq.producer.client.async_client import AsyncClient
from langgraph_rq.producer.gateway.admission.grants import Grant
from langgraph_rq.producer.gateway.admission.limits import Limits
from langgraph_rq.producer.gateway.admission.refused_keys import RefusedKeys
from langgraph_rq.producer.gateway.admission.streams import Streams
from langgraph_rq.producer.gateway.langgraph_api.known_graphs import KnownGraphs
from langgraph_rq.producer.gateway.probes.model_ping import ModelPing
from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.token_budget import BudgetLimits
from langgraph_rq.shared.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway process."""

    settings: GatewaySettings
    client: AsyncClient
    limits: Limits
    refused: RefusedKeys
    streams: Streams
    known_graphs: KnownGraphs
    breaker: BreakerLimits
    budget: BudgetLimits
    queues: tuple[str, ...]
    ping: ModelPing


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request; `client` sees the tasks of this tenant only."""

    gateway: Gateway
    grant: Grant
    client: AsyncClient

    @property
    def tenant(self) -> str:
        """The tenant of the caller's key."""
        return self.grant.tenant

    async def admit(self, user_id: str | None) -> dict[str, str]:
        """Count one submission; answers the headers that say what is left. Raises ProblemError 429."""
        return await self.gateway.limits.admit(self.tenant, user_id, self.grant.rate)


# Async, though they await nothing: FastAPI sends a sync dependency to a thread, which costs more than the request.
async def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _caller(request: Request) -> Caller:
    gateway, grant = await _gateway(request), request.state.grant
    return Caller(gateway, grant, gateway.client.for_tenant(grant.tenant, grant.share))


FromGateway = Annotated[Gateway, Depends(_gateway)]
FromCaller = Annotated[Caller, Depends(_caller)]
