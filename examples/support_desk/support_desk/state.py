"""What the nodes share."""

from typing import TypedDict


class Ticket(TypedDict):
    """The graph's input."""

    customer: str
    problem: str


class TicketState(Ticket, total=False):
    """Key: writer, reader. `article`: look_up, reply. `reply`: reply and sign, the caller."""

    article: str
    reply: str
