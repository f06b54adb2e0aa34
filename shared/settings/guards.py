"""Settings of the circuit breaker and of the budget."""

from decimal import Decimal

from pydantic import Field, PositiveInt
from pydantic_settings import SettingsConfigDict

from langgraph_rq.shared.breaker.circuit_breaker import BreakerLimits
from langgraph_rq.shared.budget.limits import BudgetLimits, Hold
from langgraph_rq.shared.budget.pricing import Rate
from langgraph_rq.shared.pacing.pacing import Pace
from langgraph_rq.shared.settings.environment import Settings


class BreakerSettings(Settings):
    """The circuit breaker of each model; all workers must agree."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_BREAKER_")

    failure_threshold: int = Field(5, ge=1, description="failures in a row that open it")
    window_s: float = Field(10.0, ge=0, description="window of the failure rate; 0: only failures in a row count")
    min_calls: int = Field(20, ge=1, description="calls in the window before the rate counts")
    failure_rate: float = Field(0.5, gt=0, le=1, description="share of failed calls in the window that opens it")
    open_s: float = Field(30.0, gt=0, description="first open time; each failed probe doubles it")
    max_open_s: float = Field(300.0, gt=0, description="longest open time")
    max_cooldown_s: float = Field(120.0, gt=0, description="longest pause that a provider's Retry-After can ask for")

    def limits(self, call_timeout_s: float = 60.0) -> BreakerLimits:
        """The breaker's own view of these settings; a probe may take as long as a call, and 5 s."""
        return BreakerLimits(**self.model_dump(), probe_lease_s=call_timeout_s + 5.0)


class PaceSettings(Settings):
    """Rates that a provider allows, by model as JSON; all workers must agree. A model that is missing has no rate."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_MODEL_")

    calls_per_minute: dict[str, PositiveInt] = Field(
        default_factory=dict, description='calls of all workers per minute: {"gpt-4o": 500}'
    )
    tokens_per_minute: dict[str, PositiveInt] = Field(
        default_factory=dict, description='tokens of all workers per minute, input and output: {"gpt-4o": 30000}'
    )

    rate_headers: bool = Field(
        True, description="where no rate is set, obey those that a provider reports in `x-ratelimit-limit-*` headers"
    )

    def paces(self) -> dict[str, Pace]:
        """The rates of each model that has any."""
        models = {*self.calls_per_minute, *self.tokens_per_minute}
        return {one: Pace(self.calls_per_minute.get(one), self.tokens_per_minute.get(one)) for one in models}


class BudgetSettings(Settings):
    """The fleet's limits on tokens and money. `none`: no limit. Later `langgraph-producer budget` changes them."""

    model_config = SettingsConfigDict(env_prefix="LGRQ_BUDGET_")

    request_tokens: int | None = Field(100_000, ge=1, description="tokens of one model call, input and output")
    daily_tokens: int | None = Field(1_000_000, ge=1, description="tokens of all workers per day")
    daily_usd: Decimal | None = Field(None, gt=0, description="US dollars of all workers per day")
    tenant_daily_tokens: int | None = Field(None, ge=1, description="tokens of one tenant per day")
    tenant_daily_usd: Decimal | None = Field(None, gt=0, description="US dollars of one tenant per day")
    user_daily_tokens: int | None = Field(None, ge=1, description="tokens of one user per day")
    user_daily_usd: Decimal | None = Field(None, gt=0, description="US dollars of one user per day")
    task_tokens: int | None = Field(None, ge=1, description="tokens of one task")
    task_usd: Decimal | None = Field(None, gt=0, description="US dollars of one task")
    hold: Hold = Field(
        Hold.ESTIMATE, description="what a running call holds: `estimate`, what it is likely to use, or `worst`"
    )
    call_output_tokens: int = Field(
        4_096,
        ge=1,
        validation_alias="LGRQ_CALL_OUTPUT_TOKENS",
        description="output tokens that a call holds at most, until 50 calls of its model are known",
    )
    utc_offset_s: int = Field(0, ge=-43_200, le=50_400, description="the day begins so far east of UTC")
    downgrade_percent: int = Field(
        90, ge=1, le=100, description="above this share of a limit the assistant answers with the simple model"
    )
    prices: dict[str, tuple[Decimal, Decimal]] = Field(
        default_factory=dict,
        description='US dollars per million tokens, input and output, as JSON: {"my-model": [0.5, 1.5]}',
    )

    def limits(self) -> BudgetLimits:
        """The budget's own view of these settings, in nano-dollars."""
        return BudgetLimits(
            request_tokens=self.request_tokens,
            daily_tokens=self.daily_tokens,
            daily_cost_nano_usd=_nano(self.daily_usd),
            user_daily_tokens=self.user_daily_tokens,
            user_daily_cost_nano_usd=_nano(self.user_daily_usd),
            tenant_daily_tokens=self.tenant_daily_tokens,
            tenant_daily_cost_nano_usd=_nano(self.tenant_daily_usd),
            task_tokens=self.task_tokens,
            task_cost_nano_usd=_nano(self.task_usd),
            utc_offset_s=self.utc_offset_s,
            hold=self.hold,
            call_output_tokens=self.call_output_tokens,
        )

    def given(self) -> set[str]:
        """The variables that were set."""
        return {variable for variable, field in self.names().items() if field in self.model_fields_set}

    def rates(self) -> dict[str, Rate]:
        """The prices that come before the bundled ones."""
        return {model: Rate(*rate) for model, rate in self.prices.items()}


def _nano(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * 10**9)
