"""Texts of LangGraph's API: what people paste and programs read, which is passed on as it is."""

import re
from typing import ClassVar

from langgraph_rq.producer.gateway.tasks.bodies import StrictRequest, StrictRoute


class TextRequest(StrictRequest):
    """A request whose texts may hold control characters, such as a PDF's form feeds. Postgres keeps no NUL."""

    refused: ClassVar = re.compile(r"[\x00\ufffe\uffff\ud800-\udfff]")


class TextRoute(StrictRoute):
    """A route that reads its body as `TextRequest` does, and knows its query."""

    request_class: ClassVar = TextRequest
