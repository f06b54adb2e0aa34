"""The nodes: a sync one that blocks, an async one that calls a model, and a sync one that reads the environment."""

import os

from articles import find_article  # from ./knowledge, a local dependency in langgraph.json
from langchain_core.language_models import BaseChatModel

from .state import TicketState


def look_up(state: TicketState) -> dict[str, str]:
    """Find the article about the problem; sync code runs in a thread and holds nobody up."""
    return {"article": find_article(state["problem"])}


class Reply:
    """Write to the customer, by means of a model."""

    def __init__(self, model: BaseChatModel) -> None:
        self._model = model

    async def __call__(self, state: TicketState) -> dict[str, str]:
        """Answer from the article."""
        prompt = f"Answer {state['customer']} from this article: {state['article']}\n{state['problem']}"
        answer = await self._model.ainvoke(prompt)
        return {"reply": str(answer.text)}


def sign(state: TicketState) -> dict[str, str]:
    """Add when somebody can be reached."""
    return {"reply": f"{state['reply']}\nYour support desk ({os.environ['SUPPORT_DESK_HOURS']})"}
