"""The size of a call, measured from its messages."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langgraph_rq.worker.guards.call_size import measure_messages

DATA = "iVBOR" * 60_000


@pytest.mark.parametrize(
    "image",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}},
        {"type": "image", "base64": DATA, "mime_type": "image/png"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{DATA}"},
        {"type": "media", "mime_type": "image/png", "data": DATA},
        {"image": {"format": "png", "source": {"bytes": DATA.encode()}}},
    ],
)
@pytest.mark.parametrize("is_of_a_tool", [False, True])
def test_image_inside_of_a_message_counts_as_an_image_and_not_as_text(is_of_a_tool, image):
    content = [{"type": "text", "text": "What is this?"}, image]
    if is_of_a_tool:
        content = [{"type": "tool_result", "tool_use_id": "1", "content": content}]
    prompt = measure_messages([HumanMessage(content)], {})
    assert prompt.media == 1
    assert 1_000 < prompt.likely_tokens(1.0) < 1_200
    assert prompt.most_tokens > len(DATA)


def test_images_of_tools_count_in_each_message():
    image = {"type": "image", "base64": DATA, "mime_type": "image/png"}
    assert measure_messages([ToolMessage([image], tool_call_id="1"), HumanMessage([image, image])], {}).media == 3


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "1", "name": "search", "input": {"query": "x" * 900}},
        {"type": "thinking", "thinking": "x" * 900, "signature": "y"},
        {"type": "tool_result", "tool_use_id": "1", "content": "x" * 900},
        {"type": "text-plain", "text": "x" * 900, "mime_type": "text/plain"},
    ],
)
def test_text_in_a_block_of_another_type_counts_as_text(block):
    prompt = measure_messages([AIMessage([block])], {})
    assert (prompt.media, prompt.media_bytes) == (0, 0)
    assert prompt.text_bytes > 900
