"""Keys of threads and runs, as the docstring of `thread_saver` lists them."""

INDEX = "agent:thread_index:"


def state_key(thread: str) -> str:
    """Return the key of all that belongs to a thread."""
    return f"agent:thread_state:{thread}"


def index_key(thread: str) -> str:
    """Return the key of the names of a thread's checkpoints."""
    return INDEX + thread


def run_key(run: str) -> str:
    """Return the key of the threads of a run."""
    return f"agent:run_threads:{run}"
