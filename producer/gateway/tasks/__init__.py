"""The routes of tasks: submit, look up, wait, stream, cancel, resume. Begin with routes.py."""
