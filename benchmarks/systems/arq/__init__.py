"""A worker and a producer of arq, which run in an environment of their own."""
