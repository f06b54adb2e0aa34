"""Prices are the providers' own, rounded up; what is not known is dear and flagged."""

import subprocess
import sys
import timeit
from decimal import Decimal
from math import ceil

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_rq.shared.budget.pricing import Price, Pricing, Rate

MODELS = [
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-5",
    "o3",
    "gemini-2.5-pro",
    "claude-sonnet-4-5",
    "claude-opus-4-1",
    "mistral-large-latest",
]
TOKENS = st.integers(0, 1_000_000)


@pytest.fixture(scope="module")
def pricing():
    return Pricing({"house-model": Rate(Decimal("0.0375"), Decimal("0.15"), Decimal("0.0035"))})


@pytest.mark.parametrize(
    ("model", "nano_usd"),
    [
        ("gpt-4o", 2_500_000 + 1_000_000),
        ("GPT-4o", 2_500_000 + 1_000_000),
        ("openai/gpt-4o", 2_500_000 + 1_000_000),
        ("azure/gpt-4o", 2_500_000 + 1_000_000),
        ("gpt-4o-mini-2024-07-18", 150_000 + 60_000),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", 300_000 + 120_000),
        ("perplexity/sonar", 12_000_000 + 1_000_000 + 100_000),
    ],
)
def test_model_is_found_by_the_names_that_servers_use(pricing, model, nano_usd):
    assert pricing.cost_nano_usd(model, 1000, 100) == Price(nano_usd, known=True)


def test_embeddings_are_priced(pricing):
    assert pricing.cost_nano_usd("text-embedding-3-small", 1000, 0) == Price(20_000, known=True)
    assert pricing.bounds_nano_usd("text-embedding-3-small", 1000, 0) == (20_000, 20_000)


@settings(max_examples=100, deadline=None)
@given(model=st.sampled_from(MODELS), tokens=st.tuples(TOKENS, TOKENS, st.floats(0, 1)))
def test_price_is_that_of_genai_prices_rounded_up(pricing, model, tokens):
    input_tokens, output_tokens, cached_share = tokens
    cached = int(input_tokens * cached_share)
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cached)
    expected = ceil(calc_price(usage, model).total_price * 10**9)
    assert pricing.cost_nano_usd(model, input_tokens, output_tokens, cached) == (expected, True)


@settings(max_examples=200, deadline=None)
@given(model=st.sampled_from([*MODELS, "house-model", "nobody-knows"]), data=st.data())
def test_no_call_costs_more_than_the_bound_of_its_tokens(pricing, model, data):
    bound_in, bound_out = data.draw(TOKENS), data.draw(TOKENS)
    input_tokens, output_tokens = data.draw(st.integers(0, bound_in)), data.draw(st.integers(0, bound_out))
    cached = data.draw(st.integers(0, input_tokens))
    written = data.draw(st.integers(0, input_tokens - cached))
    cost, _ = pricing.cost_nano_usd(model, input_tokens, output_tokens, cached, written)
    assert cost <= pricing.bounds_nano_usd(model, bound_in, bound_out).total


def test_all_tokens_of_a_long_input_cost_more(pricing):
    assert pricing.cost_nano_usd("gemini-2.5-pro", 200_000, 0).nano_usd == 200_000 * 1250
    assert pricing.cost_nano_usd("gemini-2.5-pro", 200_001, 0).nano_usd == 200_001 * 2500


def test_cache_reads_are_cheaper_and_cache_writes_dearer(pricing):
    plain, read, written = (
        pricing.cost_nano_usd("claude-sonnet-4-5", 1000, 0, **cache).nano_usd
        for cache in ({}, {"cached_input_tokens": 1000}, {"cache_write_tokens": 1000})
    )
    assert (plain, read, written) == (3_000_000, 300_000, 3_750_000)


def test_fraction_of_a_nano_dollar_is_rounded_up(pricing):
    assert pricing.cost_nano_usd("house-model", 1, 0).nano_usd == 38
    assert pricing.cost_nano_usd("house-model", 1, 0, cached_input_tokens=1).nano_usd == 4
    assert pricing.cost_nano_usd("house-model", 0, 0).nano_usd == 0


@pytest.mark.parametrize(
    "model", ["nobody-knows", "vendor/nobody-knows", "", "whisper-1", "meta-llama/llama-3.3-70b-instruct:free"]
)
def test_unknown_model_costs_the_unknown_rate_and_says_so(pricing, model):
    rate = 15_000 * 1000 + 75_000 * 100
    assert pricing.cost_nano_usd(model, 1000, 100) == Price(rate, known=False)
    assert pricing.bounds_nano_usd(model, 1000, 100) == (15_000 * 1000, rate)
    assert Pricing(unknown_rate=Rate(Decimal(1), Decimal(2))).cost_nano_usd(model, 1000, 100) == (1_200_000, False)


@pytest.mark.parametrize("model", ["GenericFakeChatModel", "fake-list", "generic-fake-chat-model", "MyFakeModel"])
def test_fake_model_costs_nothing_unless_a_price_is_set_and_says_that_it_is_not_known(model):
    assert Pricing().cost_nano_usd(model, 1000, 100) == (0, False)
    assert Pricing({model: Rate(Decimal(1), Decimal(2))}).cost_nano_usd(model, 1000, 100) == (1_200_000, True)


def test_model_that_only_sounds_like_a_fake_is_not_free(pricing):
    assert pricing.cost_nano_usd("deepfake-detector", 1000, 100).nano_usd > 0


def test_unknown_rate_is_as_dear_as_98_percent_of_the_models_or_dearer(pricing):
    models = [(model.id, provider.id) for provider in get_snapshot().providers for model in provider.models]
    known = [tiers[0] for tiers in (pricing._find_bundled(*model) for model in models) if tiers]
    unknown = pricing._unknown[0][0]
    assert len(known) > 1000
    assert sum(tier.input <= unknown.input and tier.output <= unknown.output for tier in known) >= 0.98 * len(known)


def test_override_comes_before_the_data_and_may_be_free():
    pricing = Pricing({"gpt-4o": Rate(Decimal(1), Decimal(2)), "local": Rate(Decimal(0), Decimal(0))})
    assert pricing.cost_nano_usd("gpt-4o", 1000, 1000, cached_input_tokens=1000) == (3_000_000, True)
    assert pricing.cost_nano_usd("openai/gpt-4o", 1000, 1000) == (12_500_000, True)
    assert pricing.cost_nano_usd("local", 1000, 1000) == (0, True)


@pytest.mark.parametrize("usd", ["-1", "NaN", "Infinity"])
def test_impossible_price_is_refused(usd):
    with pytest.raises(ValueError, match="expected a price of 0 or more US dollars per million tokens, got: "):
        Rate(Decimal(1), Decimal(usd))


def test_price_of_a_model_seen_before_takes_less_than_5_microseconds(pricing):
    best_s = min(timeit.repeat(lambda: pricing.cost_nano_usd("gpt-4o", 1000, 100), number=1000, repeat=20)) / 1000
    assert best_s < 5e-6


def test_prices_need_no_network():
    program = """
import sys
from langgraph_rq.shared.budget.pricing import Pricing

def refuse(event, arguments):
    assert not event.startswith("socket."), event

sys.addaudithook(refuse)
assert Pricing().cost_nano_usd("gpt-4o", 1, 1).known
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_budget_and_pricing_are_imported_without_the_price_data():
    program = (
        "import sys, langgraph_rq.shared.budget.token_budget, langgraph_rq.shared.budget.pricing;"
        "assert 'genai_prices' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
