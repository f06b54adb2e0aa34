"""URLs as they may be printed: without what lets in."""

import re
from urllib.parse import unquote_plus

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s\"']+")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_HOST = r"([a-zA-Z0-9.-]+|\[[0-9a-fA-F:.]+\])(:\d+)?"
_ADDRESS = re.compile(
    rf"{_SCHEME.pattern}(\*\*\*@)?{_HOST}(,{_HOST})*(/[\w.-]*)*(\?[\w.=&*/-]*)?|[a-zA-Z0-9.-]+:\d+(/\d*)?"
)
"""A whole address with a scheme, or host:port."""
_SECRET_OPTION = re.compile(r"pass|pwd|secret|token|key(?!file)|sig|auth|cred", re.IGNORECASE)


def mask_url(url: str) -> str:
    """Hide the user, the password and the options of a URL that are secrets, also of one without a scheme."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    credentials, at, host = rest.rpartition("@")
    shown = f"***@{host}" if at and credentials else rest
    place, question, options = shown.partition("?")
    masked = "&".join(_mask_option(option) for option in options.split("&"))
    return f"{scheme}{separator}{place}{question}{masked}"


def mask_wrong_url(text: str) -> str:
    """Show of a setting that is no URL only what surely is an address: all else may be a misplaced password."""
    masked = mask_url(text)
    if _ADDRESS.fullmatch(masked):
        return masked
    scheme = _SCHEME.match(masked)
    return f"{scheme[0] if scheme else ''}***"


def mask_webhook(url: str) -> str:
    """Hide all but the host of a URL whose path may be the secret, as it is of chat services."""
    scheme, separator, rest = mask_url(url).partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.partition('?')[0]}{slash}{'***' if path else ''}"


def mask_urls(text: str) -> str:
    """Hide the credentials of all URLs in a text."""
    return _URL.sub(lambda found: mask_url(found[0]), text)


def _mask_option(option: str) -> str:
    name, equals, value = option.partition("=")
    return f"{name}{equals}***" if value and _SECRET_OPTION.search(unquote_plus(name)) else option
