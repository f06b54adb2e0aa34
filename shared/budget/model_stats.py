"""What is known of a model's calls, from which the next one is estimated."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

KNOWN_CALLS = 50
"""Calls after which the measured output counts."""

TOKENS_PER_BYTE = 1 / 3
"""Of text, before anything is measured: English has about a quarter, no script much more than a third."""

_MOST_TOKENS_PER_BYTE = 1.0
"""No tokenizer makes more tokens than bytes: what is above was not made of the text."""

_SMALLEST_BUCKET, _BUCKET_GROWTH = 8, 1.5
_PERCENTILE = 0.99


@dataclass(frozen=True, slots=True)
class ModelStats:
    """Sums over a model's last 500 to 1,000 calls whose usage the provider reported, as prelude.lua keeps them.

    Args:
        text_bytes: Of long prompts of text only.
        text_tokens: Their input tokens, without what the provider adds.
        outputs: Calls per bucket of output tokens; a bucket ends at 8 tokens, the next at 12, each 1.5 times the last.
    """

    calls: int = 0
    output_tokens: int = 0
    text_bytes: int = 0
    text_tokens: int = 0
    outputs: tuple[int, ...] = ()

    @classmethod
    def parse(cls, numbers: str) -> "ModelStats":
        """Read the numbers of a model's field in `agent:budget:model_stats`; an empty text is an unknown model."""
        return _parse(numbers)

    @property
    def tokens_per_byte(self) -> float:
        """Input tokens per byte of text, from a third to one."""
        measured = self.text_tokens / self.text_bytes if self.text_bytes else 0.0
        return min(max(TOKENS_PER_BYTE, measured), _MOST_TOKENS_PER_BYTE)

    def likely_output(self, unknown: int) -> int:
        """Bound the output tokens of 99 calls in 100; `unknown` until enough calls are known."""
        return _likely_output(self.outputs) or unknown


@lru_cache(maxsize=1024)
def _likely_output(outputs: tuple[int, ...]) -> int | None:
    total = sum(outputs)
    if total < KNOWN_CALLS:
        return None
    enough = total * _PERCENTILE
    bucket = next(i for i, seen in enumerate(accumulate(outputs)) if seen >= enough)
    return int(_SMALLEST_BUCKET * _BUCKET_GROWTH**bucket)


@lru_cache(maxsize=1024)
def _parse(numbers: str) -> ModelStats:
    if not numbers:
        return ModelStats()
    calls, output_tokens, text_bytes, text_tokens, *outputs = (int(number) for number in numbers.split())
    return ModelStats(calls, output_tokens, text_bytes, text_tokens, tuple(outputs))
