"""Count what a task's model calls used, in any graph, through LangChain's callbacks."""

from langchain_core.callbacks import UsageMetadataCallbackHandler


class TaskUsage(UsageMetadataCallbackHandler):
    """The library's counter, deaf to all but model calls: one that listens costs a thread hop per node."""

    run_inline = True
    ignore_chain = True
    ignore_agent = True
    ignore_retriever = True
    ignore_custom_event = True
