"""What can be configured; environment variables take the place of what is not given."""

import os
from dataclasses import dataclass, field, fields
from typing import Annotated


@dataclass(kw_only=True)
class Context:
    system_prompt: str = field(
        default="You are a helpful assistant. The number of results is {max_search_results}.",
        metadata={"description": "The system prompt to use for the agent's interactions."},
    )
    model: Annotated[str, {"__template_metadata__": {"kind": "llm"}}] = field(
        default="openai/gpt-4o-mini", metadata={"description": "The language model, as provider/model-name."}
    )
    max_search_results: int = field(default=10, metadata={"description": "How many search results to return."})

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) == one.default:
                setattr(self, one.name, os.environ.get(one.name.upper(), one.default))
