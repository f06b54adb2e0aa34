"""The offline model's embeddings."""

import math

import pytest


async def embed(client, texts, **options):
    found = await client.embeddings.create(model="text-embedding-3-small", input=texts, **options)
    return [item.embedding for item in found.data]


async def test_vectors_have_length_one_and_the_asked_dimensions(client):
    (vector,) = await embed(client, "hello world", dimensions=64)
    assert len(vector) == 64
    assert math.hypot(*vector) == pytest.approx(1)


async def test_base64_and_floats_are_the_same_vector(client):
    (packed,) = await embed(client, "hello world")  # the client asks for base64 by itself
    (plain,) = await embed(client, "hello world", encoding_format="float")
    assert len(packed) == 1536
    assert packed == pytest.approx(plain)


async def test_texts_that_share_words_are_nearer_than_others(client):
    one, near, far = await embed(client, ["red apple pie", "green apple pie", "quantum chess"])
    assert math.dist(one, near) < math.dist(one, far)


async def test_token_ids_are_taken_as_input(client):
    assert len(await embed(client, [[1, 2], [3]])) == 2
