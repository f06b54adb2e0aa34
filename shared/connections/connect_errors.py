"""Errors of a REDIS_URL that leads to no usable Redis, in words that lead to the cure."""

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from langgraph_rq.shared.connections.private_redis import private_url

_NO_SUCH_DB = "DB index is out of range"
_NO_SENTINEL = "unknown command 'SENTINEL'"


def is_connect_error(error: Exception) -> bool:
    """Return whether the connection failed, rather than a command on it."""
    kinds = (RedisConnectionError, RedisTimeoutError, InvalidResponse)
    is_wrong_server = isinstance(error, ResponseError) and str(error).startswith((_NO_SUCH_DB, _NO_SENTINEL))
    return isinstance(error, kinds) or is_wrong_server


def explain_connect_error(error: Exception, url: str) -> str:
    """Return the error's message, or a clearer one where that describes the protocol and not the mistake."""
    message = str(error)
    if url == private_url():
        return (
            "your private Redis does not run: start it with `langgraph-producer dev redis`, or set REDIS_URL "
            f"({message})"
        )
    if isinstance(error, InvalidResponse):
        return f"expected a Redis, got another program, whose answer Redis' protocol does not have ({message})"
    if message.startswith(_NO_SUCH_DB):
        return f"it has no database of this number, most have 0 to 15 ({message})"
    if message.startswith(_NO_SENTINEL):
        return "expected a sentinel, got a Redis: use redis:// for one without sentinels"
    if message.startswith(("HELLO must be called", "Authentication required")):
        return "it asks for a password: use the URL redis://user:password@host:port/db"
    if message.startswith("invalid username-password"):
        return "it refused the user or the password of the URL"
    if isinstance(error, RedisTimeoutError) and url.startswith("rediss") and "connecting" in message:
        return f"{message}: rediss:// needs a port with TLS, which does not answer here"
    return message
