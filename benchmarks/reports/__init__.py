"""Figures as tables on a terminal, as files, and as a plot."""
