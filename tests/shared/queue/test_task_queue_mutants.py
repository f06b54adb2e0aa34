"""A queue with one rule taken out is caught: the comparison with the model can fail."""

from functools import partial

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from langgraph_rq.shared.connections.scripts import load_script, make_script
from langgraph_rq.shared.queue import attempts, upkeep, verbs
from langgraph_rq.shared.queue import waits as waits_module
from tests.models.mutants import assert_caught
from tests.models.task_queue_machine import QueueMachine
from tests.shared.queue import rq_clients
from tests.shared.queue import test_emptied_queues as emptied
from tests.shared.queue import test_rq_jobs as rq_jobs
from tests.shared.queue import test_task_queue as queues
from tests.shared.queue import test_task_queue_sweeps as sweeps
from tests.shared.queue import test_task_queue_waits as waits

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # some rules are found late

MUTANTS = {
    "a running task is overdue": ("sweep", "if state == 'pending' and deadline", "if deadline"),
    "a task is submitted again under its id": ("submit", "if known[2] then", "if false then"),
    "another body is taken for the same task": ("submit", "known[1] == digest and 'exists' or 'conflict'", "'exists'"),
    "tasks of a thread run side by side": ("submit", "'' then\n  local is_next", "'' and false then\n  local is_next"),
    "a worker claims without a lease": ("claim", "if not lease_end or lease_end <= now_ms then", "if false then"),
    "the epoch does not grow": ("claim", "natural(epoch, 0) + 1", "natural(epoch, 0)"),
    "a user has no cap": ("claim", "and cap > 0\n", "and false\n"),
    "a capped user is forgotten": ("claim", "redis.call('SADD', 'agent:capped:' .. user, queue)", ""),
    "a user's next task is not called": ("claim", "and taken(queue, user)", "and taken(queue, user) and false"),
    "a worker gets what it does not serve": ("claim", "or serves(graphs, graph)", "or true"),
    "a task that is put aside is lost": ("claim", "      put_aside(id, queue, graph, user)\n", ""),
    "a tenant's next user is not called": ("claim", "  end\n  call_next(queue, tenant_of(user))\n", "  end\n"),
    "a tenant keeps the turn of an id that was taken": ("claim", "redis.call('HDEL', turns_key, tenant)\n", "\n"),
    "a finished task stays charged": (
        "finish", "discharge(id, #result + #rq_result + kept_data, result_ms, now_ms)\n", "\n"
    ),
    "a cancelled task stays charged": (
        "cancel", "discharge(id, #result + task_bytes(job_key), result_ms, now_ms)\n", "\n"
    ),
    "what is kept of a task is not charged": (
        "finish", "add_held(tenant, kept_bytes - charged)", "add_held(tenant, -charged)"
    ),
    "a user who comes to a busy queue is not lined up": (
        "submit", "    line_up(queue, user, redis.call('HEXISTS', 'agent:in_flight', user) == 0)\n", ""
    ),
    "a cancelled task is not counted": ("cancel", "place == 'queue' and place or 'done'", "'done'"),
    "an older attempt may finish": ("finish", "task[2] == epoch and task[3] == worker", "true"),
    "a result is written twice": ("finish", "is_latest and task[1] == 'running'", "is_latest"),
    "a lost reply is taken for a fence": ("finish", "known_state == state and 2 or 0", "0"),
    "a finished task keeps its thread": ("finish", "\nleave_thread(id, thread)\n", "\n"),
    "a finished task stays in flight": ("finish", "\nstopped_running(user)\n", "\n"),
    "an older attempt may release": ("release", "task[2] == epoch and task[3] == worker", "true"),
    "failures are not counted": ("release", "if failures > 0 then", "if false then"),
    "a released task keeps its owner's mark": ("release", "redis.call('SREM', own_key, id)", ""),
    "an older attempt may mark the task": ("running/block", "task[2] == epoch and task[3] == worker", "true"),
    "an ended task is marked": ("running/block", "is_latest and task[1] == 'running'", "is_latest"),
    "an overdue task may go on": ("running/owns", "(tonumber(deadline) or 0) <= now_ms", "false"),
    "an older attempt may go on": ("running/owns", "task[2] == epoch and task[3] == worker", "true"),
    "an older attempt may say that it waits": ("running/keep", "task[2] == epoch and task[3] == worker", "true"),
    "what is waited for in memory is not recorded": (
        "running/keep", "redis.call('HSET', task_key, 'kept_for', thing ~= '' and epoch .. ':' .. thing or '')", ""
    ),
    "a mark is not kept": ("running/block", "redis.call('HSET', task_key, 'blocked_in', line)", ""),
    "a mark is not told to the next owner": ("claim", "fields[15] or ''", "''"),
    "a group's size is forgotten": ("release", "redis.call('HSET', task_key, 'group_size', group_size)", ""),
    "a group grows again": ("release", "if group_size ~= '0' then", "if true then"),
    "a group's size is not told to the next owner": ("claim", "natural(fields[17], 0), token}", "0, token}"),
    "a crash is not charged": ("reap", "redis.call('HINCRBY', task_key, 'crashes', 1)", ""),
    "reaped tasks are dropped": ("reap", "      put_back(id, task[3], task[5])\n", ""),
    "a task that waits is dropped": ("reap", "  in_turn(id, queue, user)\n  return true", "  return true"),
    "a task waits longer than its time": (
        "reap",
        "whole(now_ms), 'BYSCORE', 'LIMIT', 0, n)) do\n    local thing",
        "0, 'BYSCORE', 'LIMIT', 0, n)) do\n    local thing",
    ),
    "a cancelled task keeps its entry": ("cancel", "'delayed' then\n  leave_wait(id, waits_for)\n", "'delayed' then\n"),
    "a free thing is waited for": ("release", "is_free = times == 1 and", "is_free = false and"),
    "later waits are as short as the first": ("release", "known == thing and natural(times, 0) + 1 or 1", "1"),
    "a wait for another thing is long too": (
        "release",
        "known == thing and natural(times, 0) + 1 or 1",
        "natural(times, 0) + 1",
    ),
    "waiting counts as an attempt": ("release", "if not is_attempt then", "if false then"),
    "a refused thing stays marked": ("waiting/await", "if limit == 0 or", "if"),
    "a refusal takes back what was let go": (
        "waiting/await",
        "if limit == 0 or not marked_at or marked_at > now_ms then",
        "if true then",
    ),
    "all tasks try what was refused": (
        "waiting/await",
        "mark(thing, now_ms + wait_ms, 1)",
        "mark(thing, now_ms + wait_ms, 0)",
    ),
    "nothing is marked": ("waiting/wake", "if not is_marked or", "if"),
    "a mark lets all go": ("waiting/wake", "mark(thing, now_ms, limit)", "mark(thing, now_ms, 0)"),
    "two marks count as one": ("waiting/wake", "before + limit", "limit"),
    "a claim takes nothing out of marked sets": ("claim", "take_marked((16), now_ms)\n", ""),
    "a mark for all holds for a batch": ("claim", "mark(thing, first, limit -", "mark(thing, now_ms + 1e9, limit -"),
    "a task goes on before its time": (
        "claim",
        "redis.call('ZRANGE', set_key, '-inf', whole(now_ms),",
        "redis.call('ZRANGE', set_key, '-inf', '+inf',",
    ),
    "an empty set stays marked": ("claim", "    redis.call('ZREM', ('agent:waits'), thing)\n", ""),
    "a live worker is reaped": ("reap", "workers_key, '-inf', now,", "workers_key, '-inf', '+inf',"),
    "a dead worker's lease can be renewed": ("renew", "if not joining and", "if false and"),
    "a running task is ended from outside": ("cancel", "if before ~= 'pending' then", "if before == 'success' then"),
    "the cancel flag is not kept": ("cancel", "  stop(id, owner, is_rollback, why)\n", ""),
    "an end is told to two callers": ("cancel", "before, 0}\nend\nis_rollback", "before, 1}\nend\nis_rollback"),
    "a cancelled task stays open": ("cancel", "redis.call('ZREM', open_key, id)", ""),
}  # fmt: skip
LATE = {
    "a task ends without its last checkpoint": (
        "finish",
        "  return 4\n",
        "",
        queues.test_task_of_a_thread_that_lacks_its_last_checkpoint_does_not_end,
    ),
    "a task of a deleted thread runs again": (
        "finish",
        "\n  and (tonumber(redis.call('HGET', ('agent:thread_state:') .. thread, 't') or '') or 0) <= token then",
        " then",
        queues.test_task_whose_thread_was_deleted_meanwhile_ends,
    ),
    "a task ends that began last, without its last checkpoint": (
        "finish",
        "or 0) <= token then",
        "or 0) < token then",
        queues.test_task_whose_thread_was_deleted_meanwhile_ends,
    ),
    "an id that waits elsewhere is claimed": (
        "claim",
        "lies_here and state == 'pending'",
        "state == 'pending'",
        waits.test_id_that_another_program_pushed_is_not_claimed_while_its_task_waits,
    ),
    "a cancelled task keeps its thread": (
        "cancel",
        "\nleave_thread(id, thread)\n",
        "\n",
        waits.test_cancelled_head_of_a_thread_that_waits_frees_it,
    ),
    "a cancelled task may go on": (
        "running/owns",
        "return cancel and 2 or 1",
        "return 1",
        waits.test_cancelled_task_may_not_go_on,
    ),
    "a thing that is freed again and again is not waited for": (
        "release",
        "is_free = times == 1 and",
        "is_free =",
        waits.test_task_refused_again_waits_at_least_its_time_however_often_it_is_freed,
    ),
    "a mark that was used up is not given again": (
        "release",
        "    if not redis.call('ZSCORE', ('agent:waits'), thing) then",
        "    if false then",
        waits.test_thing_without_a_mark_gets_one_when_a_task_waits_for_it_again,
    ),
    "a limit is no limit": (
        "claim",
        "most = limit > 0 and math.min(most, limit) or most",
        "",
        waits.test_limited_mark_lets_so_many_go_on,
    ),
    "a mark for all is limited by the next": (
        "waiting/wake",
        "elseif before > 0 then",
        "else",
        waits.test_mark_for_all_stays_one_for_all,
    ),
    "a task is tried before its set is marked": (
        "reap",
        "if marked_at and marked_at > now_ms",
        "if false",
        waits.test_task_whose_set_will_be_marked_is_not_tried_before,
    ),
    "a task keeps its entry in a set": (
        "reap",
        "  if thing then\n    redis.call('ZREM', ('agent:wait:') .. thing, id)",
        "  if false then\n    redis.call('ZREM', ('agent:wait:') .. thing, id)",
        waits.test_entry_of_a_task_that_went_on_does_not_use_up_a_mark,
    ),
    "a limited mark never comes again": (
        "claim",
        "mark(thing, math.max(now_ms + (5000), first),",
        "mark(thing, now_ms + 1e9,",
        waits.test_tasks_that_are_let_go_and_not_refused_let_twice_as_many_go,
    ),
    "a limited mark comes again at once": (
        "claim",
        "math.max(now_ms + (5000), first)",
        "first",
        waits.test_one_task_goes_on_when_the_time_of_a_refusal_is_over,
    ),
    "a limited mark comes again for no more": (
        "claim",
        "math.min(2 * went, (100))",
        "1",
        waits.test_tasks_that_are_let_go_and_not_refused_let_twice_as_many_go,
    ),
    "few marked sets are looked at": (
        "claim",
        "redis.call('ZRANGE', ('agent:waits'), '-inf', whole(now_ms), 'BYSCORE', 'LIMIT', 0, n)",
        "redis.call('ZRANGE', ('agent:waits'), '-inf', whole(now_ms), 'BYSCORE', 'LIMIT', 0, 4)",
        waits.test_marks_of_empty_sets_do_not_hold_back_a_task_that_may_go_on,
    ),
}
"""Rules that random histories reach too seldom, each with the test that needs it."""
RQ = {
    "a running task hides one that is overdue": (
        "sweep",
        "redis.call('ZADD', open_key, whole(math.max(deadline, now_ms + (5000))), id)",
        "",
        lambda queue, rq: sweeps.test_running_tasks_do_not_hide_one_that_is_past_its_deadline_and_waits(queue),
    ),
    "a requeued job is not put back": (
        "claim",
        "        show_again(id, now_ms)\n",
        "",
        rq_jobs.test_requeued_job_is_shown_as_it_ended,
    ),
    "a task is read where RQ writes": (
        "claim",
        "    return bytes, 'task'\n",
        "    return bytes, 'data'\n",
        rq_jobs.test_waiting_task_stays_when_a_job_is_enqueued_under_its_id,
    ),
    "an emptied queue is not noticed": (
        "claim",
        "if found and redis.call",
        "if false and redis.call",
        partial(emptied.test_emptied_queue_cancels_all_that_waits_whoever_notices_first, first="claim"),
    ),
    "those on the list are not registered with the first that waits": (
        "submit",
        "      show_listed(listed, queue, true)\n",
        "",
        partial(emptied.test_emptied_queue_cancels_all_that_waits_whoever_notices_first, first="claim"),
    ),
    "a deleted job is taken for an emptied queue": (
        "claim",
        "local registry_key, found = ('rq:deferred:') .. queue, false",
        "local registry_key, found = ('rq:deferred:') .. queue, true",
        partial(
            emptied.test_job_that_is_deleted_or_cancelled_takes_no_other_task_of_its_user_with_it,
            change="delete",
        ),
    ),
    "a task that began is cancelled with its queue": (
        "sweep",
        "  if started then\n    return false",
        "  if false then\n    return false",
        emptied.test_tasks_that_began_before_the_queue_was_emptied_go_on,
    ),
    "a cancelled job gets its turn": (
        "claim",
        "is_next and is_removed(id) then",
        "false then",
        partial(emptied.test_job_that_is_removed_while_it_waits_for_its_turn_is_cancelled, change="cancel"),
    ),
    "a cancelled job is queued after its thread's": (
        "finish",
        "type(before) ~= 'string' or before == 'canceled'",
        "type(before) ~= 'string'",
        emptied.test_parked_job_that_is_cancelled_does_not_run_after_its_thread_is_free,
    ),
    "a parked task is not emptied": (
        "finish",
        "and queue and user and not was_emptied(queue, created, started)",
        "and queue and user",
        emptied.test_parked_task_is_cancelled_with_its_queue,
    ),
    "a sweep does not go on with the queue that it began": (
        "sweep",
        "  redis.call('HSET', sweeper_key, 'drops', some_queue)\n",
        "",
        lambda queue, rq: sweeps.test_thousands_of_ended_tasks_are_dropped_in_one_round_of_the_sweeper(queue),
    ),
    "a stand-in has no job": (
        "claim",
        "'data', ('[\"langgraph_rq.run_task\",null,[],{}]'), 'origin'",
        "'origin'",
        emptied.test_stand_in_for_ended_tasks_stays_when_rq_reads_the_jobs,
    ),
    "a cap does not bind jobs of stock RQ": (
        "adopt",
        "local is_capped = not is_known",
        "local is_capped = false and not is_known",
        rq_jobs.test_cap_of_a_user_holds_for_jobs_of_stock_rq,
    ),
    "a failed entry is left": (
        "finish",
        "  redis.pcall('ZREM', 'rq:failed:' .. (queue or ''), id)\n",
        "",
        rq_jobs.test_task_that_a_worker_of_stock_rq_failed_by_mistake_leaves_no_failed_entry,
    ),
    "a registry of ended tasks is not trimmed": (
        "finish",
        "    redis.pcall('ZREM', registry_key, unpack(over))\n",
        "",
        rq_jobs.test_registry_of_finished_tasks_forgets_those_whose_result_is_over,
    ),
    "a registry of cancelled tasks is not trimmed": (
        "reap",
        "do\n    redis.pcall('ZREM', registry_key, id)\n",
        "do\n",
        rq_jobs.test_registry_of_cancelled_tasks_forgets_those_whose_result_is_over,
    ),
    "an old result is kept": (
        "submit",
        "redis.call('DEL', 'agent:result:' .. id, 'agent:events:' .. id, job_key)\n",
        "",
        lambda queue, rq: rq_jobs.test_result_of_an_earlier_task_is_not_that_of_a_new_one_under_its_id(queue),
    ),
    "an attempt that ended is shown": (
        "finish",
        "  redis.call('DEL', 'rq:executions:' .. id, 'rq:execution:' .. id .. ':' .. epoch)\n",
        "",
        rq_jobs.test_execution_of_a_job_is_the_attempt_that_runs,
    ),
    "a job for later is not queued": (
        "reap",
        "      redis.call(is_first and 'LPUSH' or 'RPUSH', queue_key, id)\n",
        "",
        rq_jobs.test_jobs_that_are_enqueued_for_later_are_queued_when_they_are_due,
    ),
}
"""Rules about what RQ's clients change and see, each with its test."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_queue_with_one_rule_taken_out_is_caught(redis_url, mutant):
    verb, original, replacement = MUTANTS[mutant]
    assert_caught(
        redis_url,
        QueueMachine,
        load_script(f"shared/queue/scripts/{verb}"),
        original,
        replacement,
        examples=800,
        steps=50,
    )


@pytest.mark.parametrize("mutant", LATE)
async def test_rule_of_waiting_that_is_taken_out_is_caught_by_its_test(aredis, monkeypatch, mutant):
    verb, original, replacement, its_test = LATE[mutant]
    script = load_script(f"shared/queue/scripts/{verb}")
    assert script.source.count(original) == 1
    mutated = make_script(script.name, script.source.replace(original, replacement))
    for module in (verbs, attempts, upkeep, waits_module):
        monkeypatch.setattr(module, "load_script", lambda name: mutated if name == script.name else load_script(name))
    queue = waits.Waits(aredis)
    await queue.join()
    with pytest.raises(AssertionError):
        await its_test(queue)


@pytest.mark.parametrize("mutant", RQ)
async def test_rule_about_rqs_clients_that_is_taken_out_is_caught_by_its_test(aredis, redis_url, monkeypatch, mutant):
    verb, original, replacement, its_test = RQ[mutant]
    script = load_script(f"shared/queue/scripts/{verb}")
    assert script.source.count(original) == 1
    mutated = make_script(script.name, script.source.replace(original, replacement))
    for module in (verbs, attempts, upkeep):
        monkeypatch.setattr(module, "load_script", lambda name: mutated if name == script.name else load_script(name))
    queue = rq_clients.Tasks(aredis)
    await queue.join()
    with Redis.from_url(redis_url) as redis, pytest.raises(AssertionError):
        await its_test(queue, Queue(rq_clients.QUEUE, connection=redis, serializer=JSONSerializer))
