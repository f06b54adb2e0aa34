"""Cost: can a bug or a user spend more than was meant?"""

from langgraph_rq.producer.doctor.finding import Check, Finding, failed, passed, warned
from langgraph_rq.producer.doctor.system import System
from langgraph_rq.shared.budget.answers import show_amount
from langgraph_rq.shared.settings import TaskSettings, load


def there_is_a_daily_budget(system: System) -> Finding:
    """The last line of defence against a bill."""
    budget = system.budget
    if budget.daily_tokens is None and budget.daily_cost_nano_usd is None:
        return failed("no daily budget", "langgraph-producer budget set global 1000000 --usd 50")
    if budget.daily_cost_nano_usd is None:
        return warned(
            f"at most {budget.daily_tokens:,} tokens a day, but no limit on money; prices of models differ widely",
            "langgraph-producer budget set global --usd 50",
        )
    return passed(f"at most {show_amount(budget.daily_cost_nano_usd, 'cost')} a day")


def requests_are_limited(system: System) -> Finding:
    """One call with a huge input must not take the day's budget."""
    if system.budget.request_tokens is None:
        return failed("a single call may use any number of tokens", "langgraph-producer budget set request 100000")
    return passed(
        f"at most {system.budget.request_tokens:,} tokens per call, {load(TaskSettings).input_bytes:,} bytes of input"
    )


def spending_is_announced(system: System) -> Finding:
    """50, 80, 95 and 100 % of a limit should raise an alert."""
    if system.telemetry.alert_webhook_url:
        return passed("budget alerts are posted to a webhook")
    if (
        system.urls.prometheus
        and any("Budget" in rule["name"] for rule in system.rules)
        and system.alertmanagers  # Prometheus sends no messages itself
    ):
        return passed("Prometheus alerts on the budget")
    return warned(
        "budget alerts go to the log only",
        "set LGRQ_ALERT_WEBHOOK_URL, or load deploy/prometheus/alerts.yml, name an Alertmanager, give --prometheus URL",
    )


def models_are_chosen_by_difficulty(system: System) -> Finding:
    """Most questions are simple, and a small model is a tenth of the price."""
    chosen = {model for worker in system.fleet.workers for model in worker.guarded.by_difficulty}
    models = sorted(chosen or system.guarded)
    if len(models) > 1:
        return passed(f"{', '.join(models[:5])}{' and others' * (len(models) > 5)} are called")
    if not models:
        return warned("not known: no live worker has guarded a model call", "send a task and ask again")
    return warned(
        f"{models[0]} answers simple and complex questions",
        "call a cheaper one for simple questions; the assistant's is LGRQ_ASSISTANT_SIMPLE_MODEL",
    )


CHECKS: dict[str, Check] = {
    "daily budget": there_is_a_daily_budget,
    "request limits": requests_are_limited,
    "budget alerts": spending_is_announced,
    "model selection": models_are_chosen_by_difficulty,
}
