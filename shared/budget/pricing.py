"""What a model call costs, in integer nano-dollars (10**-9 USD), rounded up.

Prices come from the data that genai-prices carries: nothing is downloaded. They depend on the model, the direction, on
what a cache read or wrote, and for some models on the size of the input or on the time. Images, audio, searches and
one-hour cache writes, which providers bill apart, are priced as plain tokens.

An unknown model is never free: it costs the unknown rate, and every answer says whether the price is known. Only fake
models, which LangChain has for tests, cost nothing. Overrides come first, for models of one's own and for negotiated
prices.

genai-prices comes with the `worker` extra; importing this module needs only the base install.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

PRICE_S = 15 * 60
"""How long a looked-up price holds; the daily and dated price changes in the data fall on multiples of it, in UTC."""

# Prices per token are kept in pico-dollars, because the cheap models cost a fraction of a nano-dollar.
_PICO_PER_NANO = 1000


@dataclass(frozen=True, slots=True)
class Rate:
    """A model's price in US dollars per million tokens; cached input costs the same as other input where it is None."""

    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cached_input_usd_per_mtok: Decimal | None = None

    def __post_init__(self) -> None:
        for usd in (self.input_usd_per_mtok, self.output_usd_per_mtok, self.cached_input_usd_per_mtok):
            if usd is not None and not (Decimal(usd).is_finite() and usd >= 0):
                raise ValueError(f"expected a price of 0 or more US dollars per million tokens, got: {usd}")


UNKNOWN_RATE = Rate(Decimal(15), Decimal(75))
"""As dear as 98 % of the models that genai-prices knows, or dearer."""


_FREE_RATE = Rate(Decimal(0), Decimal(0))
_FAKE = re.compile(r"Fake|\bfake")
"""Names of fake models: LangChain's, such as GenericFakeChatModel and fake-list, and those of their subclasses."""


class Price(NamedTuple):
    """A price, and whether it is the model's own: False says that the unknown rate stood in."""

    nano_usd: int
    known: bool


class Bounds(NamedTuple):
    """The most that a call's input can cost, and the whole call."""

    input: int
    total: int


class _Tier(NamedTuple):
    """Pico-dollars per token of a call with more than `above` input tokens, and per call."""

    above: int
    input: int
    cached_input: int
    cache_write: int
    output: int
    call: int


_Tariff = tuple[tuple[_Tier, ...], bool]


class Pricing:
    """Prices calls by the names that OpenAI-compatible servers use: `gpt-4o-mini-2024-07-18`, `openai/gpt-4o`.

    Loading the data takes about half a second and 20 MB, once, here: not in the first call. Each model is looked up
    about once in `PRICE_S`; from then on a price takes a microsecond or two.
    """

    def __init__(self, overrides: Mapping[str, Rate] | None = None, unknown_rate: Rate = UNKNOWN_RATE) -> None:
        self._overrides: dict[str, _Tariff] = {
            model: (_tiers_of_rate(rate), True) for model, rate in (overrides or {}).items()
        }
        self._unknown: _Tariff = (_tiers_of_rate(unknown_rate), False)
        self._find_bundled = _load_bundled_prices()
        self._tariff = lru_cache(maxsize=1024)(self._find)

    def cost_nano_usd(
        self,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cached_input_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> Price:
        """Price what a call used; what a cache read and wrote is part of `input_tokens`, as providers report it."""
        tiers, known = self._tariff(model, int(time.time()) // PRICE_S)
        tier = next(tier for tier in reversed(tiers) if input_tokens > tier.above)
        pico = (
            tier.call
            + tier.input * max(0, input_tokens - cached_input_tokens - cache_write_tokens)
            + tier.cached_input * cached_input_tokens
            + tier.cache_write * cache_write_tokens
            + tier.output * output_tokens
        )
        return Price(-(-pico // _PICO_PER_NANO), known)

    def bounds_nano_usd(self, model: str, input_tokens: int, output_tokens: int) -> Bounds:
        """Price the most that a call with at most so many tokens can cost, whatever a cache reads or writes."""
        tiers, _ = self._tariff(model, int(time.time()) // PRICE_S)
        of_input = total = 0
        for tier in tiers:
            if input_tokens > tier.above:
                pico = tier.call + max(tier.input, tier.cached_input, tier.cache_write) * input_tokens
                of_input = max(of_input, pico)
                total = max(total, pico + tier.output * output_tokens)
        return Bounds(-(-of_input // _PICO_PER_NANO), -(-total // _PICO_PER_NANO))

    def _find(self, model: str, _quarter: int) -> _Tariff:
        if model in self._overrides:
            return self._overrides[model]
        for name, provider in _references(model):
            tiers = self._find_bundled(name, provider)
            if tiers:
                return tiers, True
        return (_tiers_of_rate(_FREE_RATE), False) if _FAKE.search(model) else self._unknown


def _references(model: str) -> Iterator[tuple[str, str | None]]:
    """Name what `model` may mean, the likeliest first: a model and its provider; None where one provider is known."""
    prefix, slash, name = model.partition("/")
    if slash:
        yield name, prefix
    yield model, None
    yield model, "openai"
    if slash:
        yield model, "openrouter"


def _tiers_of_rate(rate: Rate) -> tuple[_Tier, ...]:
    cached_usd = rate.cached_input_usd_per_mtok
    input_pico, output_pico = _pico(rate.input_usd_per_mtok), _pico(rate.output_usd_per_mtok)
    return (_Tier(-1, input_pico, input_pico if cached_usd is None else _pico(cached_usd), input_pico, output_pico, 0),)


def _pico(usd_per_million: Decimal) -> int:
    return ceil(usd_per_million * 10**6)


def _load_bundled_prices() -> Callable[[str, str | None], tuple[_Tier, ...]]:
    """Load genai-prices, and return the search in it: no tiers where it has no price per token."""
    from genai_prices import Usage, calc_price  # noqa: PLC0415, not in the base install, and slow to import

    def find(model: str, provider: str | None) -> tuple[_Tier, ...]:
        try:
            price = calc_price(Usage(), model, provider_id=provider).model_price
        except LookupError:
            return ()
        return () if price.input_mtok is None else _tiers_of_bundled(price)

    find("gpt-4o", "openai")
    return find


def _tiers_of_bundled(price: Any) -> tuple[_Tier, ...]:
    fees = (price.input_mtok, price.cache_read_mtok, price.cache_write_mtok, price.output_mtok)
    call = ceil((price.requests_kcount or 0) * 10**9)
    starts = {tier.start for fee in fees for tier in getattr(fee, "tiers", ())}
    tiers = []
    for above in sorted({-1, *starts}):
        plain = _fee_at(price.input_mtok, above)
        # A direction without a price of its own costs what the input costs: embeddings have no output, but a wrong
        # report must not be free.
        read, write, output = (plain if fee is None else _fee_at(fee, above) for fee in fees[1:])
        tiers.append(_Tier(above, plain, read, write, output, call))
    return tuple(tiers)


def _fee_at(fee: Any, above: int) -> int:
    usd = getattr(fee, "base", fee)
    for tier in getattr(fee, "tiers", ()):
        if tier.start <= above:
            usd = tier.price
    return _pico(usd)
