"""An OpenAI-compatible model server that needs no network and no key, for demo, tests and benchmarks.

process         start and stop it, and control a running server (to read first)
server          the HTTP application: model routes and admin routes
apis/           the APIs, a module each, and what they refuse
replies         bodies and event streams
answers         request -> answer, a pure function
sample_values   question and JSON schema -> a value that fits, for tool calls and structured output
faults          errors and broken connections on demand
call_log        the record of every call
"""
