"""The APIs that the offline model serves, a module each, and what they refuse.

routes              path -> API, keys and the list of models (to read first)
chat_completions    OpenAI: /v1/chat/completions       chat_checks      what it refuses
responses           OpenAI: /v1/responses              responses_input  its items as messages, and what it refuses
anthropic_messages  Anthropic: /v1/messages            anthropic_input  its blocks as messages, and what it refuses
embeddings          OpenAI: /v1/embeddings
checks              what OpenAI's APIs refuse alike: types, ranges, unknown fields
strict_schemas      which JSON schemas `strict` accepts
prompt_cache        what Anthropic's prompt cache has read and written
"""
