"""The production checklist as a program: one function per item, run against the live system and its configuration."""
