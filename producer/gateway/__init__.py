"""The HTTP API: submit, look up, stream, cancel, resume. `langgraph-producer serve` runs it; the extra is `api`.

app.py          the application, and the order in which a request passes its parts: begin here
server.py       uvicorn, and a graceful end
dependencies.py what routes get: the process's connections, the caller's tenant
problems.py     every error as a problem document (RFC 9457)
answers.py      the bodies of answers, for OpenAPI
admission/      API keys and tenants, body size, rate limit and back-pressure
tasks/          the routes of tasks
console/        the page for people, and what it shows
probes/         health, readiness, metrics
"""
