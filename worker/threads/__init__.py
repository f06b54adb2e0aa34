"""Answers requests about threads."""
