"""How a client reaches Redis: round trips that block or suspend, and the events of many tasks over few connections."""
