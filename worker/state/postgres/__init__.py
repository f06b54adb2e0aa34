"""State in Postgres: `LGRQ_STATE=postgres`. To read: schema, checkpoints, store_access."""
