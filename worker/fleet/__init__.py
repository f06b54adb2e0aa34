"""One worker process among others: it joins the fleet, claims tasks, keeps its lease, drains and leaves.

Begin with graph_worker.py, whose parts are:

rq_registration.py  its entry in RQ's registers
lease.py            its lease, and the reaping of dead workers' tasks (sweeper.py: of lost ones)
claiming.py         claim tasks, and wake up when there are some
running.py          the tasks in flight (node_threads.py: the threads of their sync nodes)
outcomes.py         write how an attempt ended
commands.py         commands over pub/sub
forked/             child processes for tasks under which workers crashed, and what a node forks

processes.py starts several workers on one host.
"""
