"""What producer and workers agree on: the wire contract, the queue, the breaker and the budget, all in Redis."""
