"""A module per measurement, each with a `MEASUREMENT`, and the programs and calculations that only they use."""
