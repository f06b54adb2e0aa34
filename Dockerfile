# One image for worker, gateway, dashboard and command line. It runs as an unprivileged user and writes only to /tmp.
# For your own graphs: FROM this image, COPY them to /app with their langgraph.json.
FROM python:3.12.15-slim AS build
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
WORKDIR /src
# Libraries first: they change less often than our own files, so that their layer is cached.
COPY pyproject.toml requirements.lock ./
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --constraints requirements.lock \
      --requirements pyproject.toml --extra worker --extra api --extra otel --extra dashboard --extra encryption --extra postgres
COPY README.md LICENSE ./
COPY langgraph_rq/__init__.py langgraph_rq/py.typed langgraph_rq/
COPY shared shared
COPY producer producer
COPY worker worker
RUN /opt/venv/bin/uv pip install --no-cache --python /opt/venv/bin/python --no-deps . \
 && /opt/venv/bin/uv pip uninstall --python /opt/venv/bin/python uv \
 && /opt/venv/bin/python -m compileall -q /opt/venv/lib >/dev/null

FROM python:3.12.15-slim
RUN useradd --system --uid 10001 --home-dir /app --no-create-home --shell /usr/sbin/nologin app
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
USER 10001
STOPSIGNAL SIGTERM
CMD ["langgraph-worker"]
