"""Checkpoints and the store by langgraph-checkpoint-redis: `LGRQ_STATE=redis-stack`."""
