"""Run LangGraph graphs from the queue. Begin with boot.py, then fleet/graph_worker.py and task/run.py.

From the top, each imports only those below it:

__main__.py  where langgraph-worker begins
command.py   its options
boot.py      what a worker process does from its start to its end
telemetry/   what a worker process exposes: metrics, health, alerts
fleet/       one worker among others: claim, lease, run, drain, isolate
context.py   opens what all tasks of a process share
assistant/   the built-in graph
task/        the life of one task
state/       checkpoints and the store
graphs/      from langgraph.json to graphs that are ready to run
calls/       guarded models, embeddings and tools: retries, fallbacks, what an error means
guards/      which model call may start, and what it cost
tracing/     the spans of attempts
records/     what a running node has done since its last checkpoint

dev/ holds the offline model server of the demo, the tests and the benchmarks.
"""
