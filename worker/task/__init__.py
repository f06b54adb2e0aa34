"""The life of one task: read it, run its graph, stream its events, make its result. Begin with run.py.

run_context.py  what all tasks of a process share
attempt.py      the scope of one run: identity, usage, audit entry
job.py          read the claimed job
threads.py      what new input finds on its thread (interrupts.py: resume it)
guard_hook.py   the LangChain handler that guards model calls (node_watch.py: that records nodes and tools)
streaming.py    run the graph and add its events (events.py: write them; redacted.py: mask them)
result.py       the result, from a graph's output or its error
commits.py      write what was decided, also through an outage of Redis
"""
