"""Submit tasks and read their results."""
