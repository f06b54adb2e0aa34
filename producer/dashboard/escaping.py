"""rq-dashboard's templates, changed when they are compiled so that data can only become text.

They are written for a policy that allows any script: values are put into HTML as they are (`<%= %>`), a queue's name
into a script, and underscore compiles row templates in the browser, which needs 'unsafe-eval'. Here every value is
escaped, row templates are compiled on the server, and each script carries the response's nonce.
"""

import json
import re

from jinja2.ext import Extension

_ROW = re.compile(r'<script name="[\w-]+" type="text/template">(.*?)</script>', re.DOTALL)
_TAG = re.compile(r"<%(-?)(.*?)%>", re.DOTALL)
_ESCAPED_BY_HAND = re.compile(r"\$\('<div/>'\)\.text\(([\w.]+)\)\.html\(\)")
_NAME_IN_SCRIPT = "'{{ queue.name }}'"
_STYLE = re.compile(r' style="[^"]*"')
_PAGE_SCRIPT = '<script type="text/javascript">'
_NONCE = ' nonce="{{ csp_nonce() }}"'

_REGISTER = (
    "(window.rows ??= new Map()).set(document.currentScript.previousElementSibling.innerHTML, function (data) {{"
    'let html = ""; with (data) {{ {body} }} return html; }});'
)
"""Underscore looks templates up by their text."""
_LOOK_UP = "_.template = (text) => window.rows.get(text);"

_STYLES = """
#requeue-all-btn, #requeue-job-btn, #compact-btn, [data-role=requeue-job-btn] { display: none !important }
#job-data, h2, td:first-child { overflow-wrap: anywhere }
td:first-child { min-width: 16rem }
.table-responsive-md { overflow-x: auto }
p.fixed.intro { height: auto }
"""
"""What would be refused is not offered; a long name does not widen the page."""


class EscapedTemplates(Extension):
    """Rewrites the source of each template before Jinja reads it; data are not there yet."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002 - Jinja's signature
        """Escape values, compile row templates, add nonces."""
        source = _ESCAPED_BY_HAND.sub(r"\1", source).replace("<%=", "<%-")
        source = _STYLE.sub("", source).replace(_NAME_IN_SCRIPT, "{{ queue.name|tojson }}")
        source = source.replace(_PAGE_SCRIPT, _PAGE_SCRIPT + _LOOK_UP)
        source = _ROW.sub(lambda row: f"{row[0]}<script>{_compile(row[1])}</script>", source)
        source = source.replace("<script", f"<script{_NONCE}")
        return source.replace("</head>", f"<style{_NONCE}>{_STYLES}</style></head>")


def _compile(row: str) -> str:
    """Translate a row template of underscore into a script that registers it as a function."""
    body, end = [], 0
    for tag in _TAG.finditer(row):
        body += [_append(_literal(row[end : tag.start()])), _append(f"_.escape({tag[2]})") if tag[1] else tag[2]]
        end = tag.end()
    body.append(_append(_literal(row[end:])))
    return _REGISTER.format(body=" ".join(body))


def _append(expression: str) -> str:
    return f"html += {expression};"


def _literal(text: str) -> str:
    return json.dumps(text).replace("</", r"<\/")
