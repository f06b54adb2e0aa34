"""Where a worker keeps threads, and with which secrets it encrypts state: as workers and the doctor compare them."""

from dataclasses import dataclass

from langgraph_rq.shared.announcements.announcement import Announcement

PLAIN = "plain"
"""Stands for no encryption among secrets."""


@dataclass(frozen=True, slots=True)
class StateKept(Announcement):
    """What one worker announces."""

    place: str = ""
    """Where the checkpoints of threads are, without secrets; empty: not known, and not to be compared."""
    secrets: tuple[str, ...] = ()
    """Names of the secrets in LGRQ_STATE_KEY, eight hexadecimal digits each: the first writes, all read; empty: not
    known, and not to be compared."""

    def fits(self, other: "StateKept") -> bool:
        """Whether both keep threads in one place, and each reads what the other writes.

        While a secret is replaced, workers have different lists in which both writing secrets are.
        """
        if self.place and other.place and self.place != other.place:
            return False
        if not self.secrets or not other.secrets:
            return True
        return self.secrets[0] in other.secrets and other.secrets[0] in self.secrets

    def __str__(self) -> str:
        """Describe it for people."""
        is_plain = self.secrets in {(), (PLAIN,)}
        return self.place if is_plain else f"{self.place}, with the secrets {', '.join(self.secrets)}"
