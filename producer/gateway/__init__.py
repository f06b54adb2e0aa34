"""The HTTP API: submit, look up, stream, cancel, resume. `langgraph-producer serve` runs it; the extra is `api`.

app.py       the application: what it holds, and in which order a request goes through it
access.py    who is asking: API keys and tenants            problems.py  every error, as RFC 9457 has it
bodies.py    what is accepted                               answers.py   what is answered
limits.py    rate limit and back-pressure                   tasks.py, classic.py, stream.py, health.py,
serve.py     uvicorn, and how it ends                       overview.py, page.py   the routes
"""
