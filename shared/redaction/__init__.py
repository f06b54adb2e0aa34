"""Mask personal data and secrets in text. Begin with `redactor.py`.

redactor.py     whole texts, JSON values, and streams of tokens across their borders
segments.py     where a text may be cut so that a stream is masked as the whole text is
engine.py       RE2, and the refusal of patterns that it cannot run
shapes.py       secrets, addresses, cards and IBANs: what is searched, and the checks of what was found
phones.py       phone numbers
"""

from langgraph_rq.shared.redaction.redactor import RedactedStream, Redactor
from langgraph_rq.shared.redaction.segments import SEGMENT_CHARS

__all__ = ["SEGMENT_CHARS", "RedactedStream", "Redactor"]
