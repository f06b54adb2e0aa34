"""A server of OpenAI's and Anthropic's APIs that needs no network and no account, for demo, tests and benchmarks.

process         start and stop it, and control a running server (to read first)
server          the HTTP application: calls and admin routes
apis/           the APIs: requests in, replies out, and what they refuse
chat_request    a chat request in the one form that all APIs are read into
answers         request -> answer, a pure function
sample_values   question and JSON schema -> a value that fits, for tool calls and structured output
replies         bodies and event streams      errors  the error documents of both providers
faults          errors and broken connections on demand
call_log        the record of every call      connection  the connection of a call, which a fault may break
"""
