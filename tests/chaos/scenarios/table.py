"""The table of faults: a function per scenario."""

from collections.abc import Callable, Mapping

from tests.chaos.checking.checker import Verdict
from tests.chaos.run import Run
from tests.chaos.scenarios import bounds, crashes, failover, odd_data, ordinary_day, provider, redis, routing, tasks

SCENARIOS: Mapping[str, Callable[[Run], Verdict]] = {
    "C1": crashes.kill_random_workers,
    "C2": crashes.stop_workers,
    "C3": redis.restart_redis,
    "C4": redis.freeze_redis,
    "C5": redis.lose_replies,
    "C6": redis.cut_off_a_worker,
    "C7": crashes.kill_at_each_point,
    "C8": crashes.drain_workers,
    "C9": crashes.poison,
    "C10": redis.fill_memory,
    "C11": tasks.skew_a_clock,
    "C12": provider.break_the_provider,
    "C13": provider.kill_while_paying,
    "C14": tasks.submit_many_times,
    "C15": tasks.cancel_at_random_times,
    "C17": tasks.put_garbage_on_the_queue,
    "C18": ordinary_day.flood,
    "C19": ordinary_day.fan_out,
    "C20": ordinary_day.leave_usage_unknown,
    "C21": provider.hang_while_others_wait,
    "C22": routing.flood_with_an_unserved_graph,
    "C23": provider.limit_the_rate,
    "C24": routing.replace_the_only_worker_of_a_graph,
    "C25": redis.deliver_late,
    "C26": odd_data.replace_every_key,
    "C27": crashes.kill_beside_innocents,
    "C28": ordinary_day.spend_to_the_last_token,
    "C29": bounds.fill_every_collection,
    "C30": provider.answer_after_the_lease,
    "C31": crashes.block_a_loop,
    "C32": failover.fail_over,
}


def title(name: str) -> str:
    """Return a scenario's description, one line."""
    return str(SCENARIOS[name].__doc__).partition(": ")[2].partition("\n")[0]
