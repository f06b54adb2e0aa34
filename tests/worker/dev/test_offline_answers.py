"""The offline model's answers to chat requests: quotes, labels, tokens, streams."""

import math

import pytest
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs

from tests.offline_model import CLASSIFY, WEATHER, ask, body_of, say

NONE = ChoiceLogprobs(content=[])


async def test_question_is_answered_with_a_text_that_quotes_it(client):
    assert '"What is the capital of Peru?"' in await say(client, "What is the capital of Peru?")


async def test_same_question_gets_the_same_answer(client):
    assert await say(client, "Why is the sky blue?") == await say(client, "Why is the sky blue?")


async def test_two_answers_never_share_an_id(client):
    ids = {(await client.chat.completions.create(**body_of())).id for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("question", "label"),
    [
        ("What is the capital of Peru?", "simple"),
        ("Why is the sky blue?", "medium"),
        ("Compare tea with coffee.", "medium"),
        ("Design a queue that loses nothing.", "complex"),
        ("Prove that there are infinitely many primes.", "complex"),
        ("word " * 50, "complex"),
    ],
)
async def test_classification_prompt_gets_exactly_one_label(client, question, label):
    messages = [{"role": "system", "content": CLASSIFY}, {"role": "user", "content": question}]
    assert await say(client, messages) == label


async def test_classification_inside_the_question_looks_at_its_last_line(client):
    assert await say(client, f"{CLASSIFY}\nWhat is the capital of Peru?") == "simple"


async def test_message_of_several_parts_is_read_as_their_text(client):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "What is on this picture?"}, image]
    assert '"What is on this picture?"' in await say(client, [{"role": "user", "content": parts}])


async def test_streamed_answer_is_the_same_text_in_several_pieces(client):
    stream = await client.chat.completions.create(**body_of(), stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert len(pieces) > 3
    assert "".join(pieces) == await say(client, "Why?")


async def test_stream_ends_with_its_usage_when_that_is_asked_for(client):
    whole = await client.chat.completions.create(**body_of())
    stream = await client.chat.completions.create(**body_of(), stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {chunk.usage for chunk in chunks[:-1]} == {None}


async def test_usage_is_one_token_per_four_bytes_of_utf8(client):
    completion = await client.chat.completions.create(**body_of("¿Qué?"))
    answer_bytes = len(completion.choices[0].message.content.encode())
    assert completion.usage.prompt_tokens == math.ceil(len("¿Qué?".encode()) / 4)
    assert completion.usage.completion_tokens == math.ceil(answer_bytes / 4)


async def test_schemas_of_tools_count_as_input(client):
    without = await client.chat.completions.create(**body_of())
    with_tools = await client.chat.completions.create(**body_of(), tools=[WEATHER], tool_choice="none")
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + 20


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_answer_ends_at_the_token_limit_with_finish_reason_length(client, name):
    completion = await client.chat.completions.create(**body_of("¿Por qué?"), **{name: 5})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 5
    assert len(completion.choices[0].message.content.encode()) <= 20


async def test_answer_ends_before_a_stop_word(client):
    assert await say(client, "Why?", stop=["asked"]) == "You "


async def test_long_question_is_quoted_in_part(client):
    assert len(await say(client, "x" * 100_000)) < 3000


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_are_each_billed(client, server, stream):
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answered = await client.chat.completions.create(**body_of(), n=3, **options)
    one = await client.chat.completions.create(**body_of())
    if stream:
        chunks = [chunk async for chunk in answered]
        usage = chunks[-1].usage
        texts = [
            "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == i)
            for i in range(3)
        ]
    else:
        usage, texts = answered.usage, [choice.message.content for choice in answered.choices]
    assert texts == [one.choices[0].message.content] * 3
    assert usage.completion_tokens == 3 * one.usage.completion_tokens
    assert server.admin.calls()[0]["output_tokens"] == usage.completion_tokens


async def test_logprobs_cover_the_whole_text(client):
    choice = await ask(client, "Why?", logprobs=True, top_logprobs=2)
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert bytes(tokens[0].bytes).decode() == tokens[0].token
    assert [len(token.top_logprobs) for token in tokens] == [2] * len(tokens)
    stream = await client.chat.completions.create(**body_of(), logprobs=True, stream=True)
    streamed = [token async for chunk in stream for token in (chunk.choices[0].logprobs or NONE).content]
    assert [token.token for token in streamed] == [token.token for token in tokens]
