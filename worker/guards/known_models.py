"""What a process knows of the models it has called: their statistics, and what a call of theirs is charged by them."""

from langgraph_rq.shared.budget.model_stats import ModelStats
from langgraph_rq.shared.budget.pricing import Pricing
from langgraph_rq.shared.budget.token_budget import Charge, Hold
from langgraph_rq.worker.guards.call_size import likely_output_tokens
from langgraph_rq.worker.guards.task_guard import Admitted, Used

MOST_MODELS = 1_000
"""Models whose statistics a process keeps; the one that was not heard of for longest goes."""
_UNKNOWN = ModelStats()


class KnownModels:
    """The statistics of models, by their name in the price list."""

    def __init__(self) -> None:
        self._stats: dict[str, ModelStats] = {}

    def stats_of(self, model: str) -> ModelStats:
        """Return a model's statistics; those of an unknown one are empty."""
        return self._stats.get(model, _UNKNOWN)

    def learn(self, model: str, stats: ModelStats) -> None:
        """Keep the statistics that the budget has of a model, if it has any."""
        if stats == _UNKNOWN:
            return
        self._stats.pop(model, None)
        self._stats[model] = stats
        if len(self._stats) > MOST_MODELS:
            del self._stats[next(iter(self._stats))]

    def charge(self, admitted: Admitted, used: Used | None, hold: Hold, pricing: Pricing) -> Charge:
        """Return what a call is charged; of unknown usage (None) an estimate, or all that was held for the worst."""
        if used is None and hold is Hold.WORST and admitted.held:
            held = admitted.held.held
            return Charge(held.tokens, 0, held.cost_nano_usd, is_estimated=True)
        if used is None:
            output_tokens = likely_output_tokens(admitted.received_bytes, self.stats_of(admitted.model))
            used = Used(admitted.request.input.tokens, output_tokens, is_estimated=True)
        cached = (used.cached_input_tokens, used.cache_write_tokens)
        tokens = (used.input_tokens, used.output_tokens)
        cost = pricing.cost_nano_usd(admitted.model, *tokens, *cached).nano_usd
        text = admitted.size.prompt.text_of(used.input_tokens)
        return Charge(*tokens, cost, is_estimated=used.is_estimated, text_bytes=text[0], text_tokens=text[1])
