"""How the kernel's state lies in memory: records of numbers that are reached by address, as structs are in C.

NumPy owns the memory. The one `WORLD` record, `w` in all of the kernel, holds the addresses, and everything else is
named by its row. To the compiler such a record is a plain pointer, so nothing is reference-counted, and a call passes
one pointer. Python may move an array when the kernel asks it for something, and then updates the address in `w`. Rows
of tasks, batches and groups are only asked for between events, so that within one their pointers hold.
"""

from __future__ import annotations

import numpy as np

ROW = "i8"

QUEUED, RUNNING, ENDED = range(3)

CANCELS = ("nothing", "queued", "all", "queued_up_to")
"""What an answer cancels, by the number that the kernel knows."""
"""The states of a task, as in `sim.task`."""

DONE, CANCELLED, LOST = range(3)
"""`sim.trace.TaskStatus`, as plain numbers."""

OWN, RECONSTRUCTION, REPLICA, BACKUP = range(4)
"""`sim.trace.Route`, as plain numbers."""

ONE, REPLICAS, HEDGED, TIED, BACKUPS, CODED, COLLECTED = range(7)
"""What the policy does; CODED may hedge and ask backups besides."""

TURNS, SHORTEST, BEST, IDLE, PEAK, LEAST, PREQUAL = range(7)
"""How a queue is chosen where every instance has one; the last three learn from answers."""

UNHEARD, LATEST, SEEN = 1e6, 32, 9
"""The constants of `sim.routing`."""

PIECES, CHAIN, FACTOR, MULTIPLY, ADD, TENANTS = range(6)
"""How a straggler bends a service."""

(
    FINISHED, OVERDUE, ASK_BACKUP, GROUP_OVERDUE, ENCODED, DECODED, STOPPED, REPAIRED, DETECTED, WAITED, TOLD,
    BACKUP_DUE, DEADLINE, BATCH_OVERDUE, ARRIVAL,
) = range(15)  # fmt: skip
"""What happens at a moment. Only the first four can be cancelled."""

SUBMITTED, MOVED, HAS_WAITED, RELEASED, IS_REPAIRED, IS_DETECTED, EJECTED, LOOKS = range(8)
"""What happens at instances: to a task, and to an instance."""

ALONE, PARTED = -1, -2
"""In place of a task's bundle: it is in none, or its bundle is ending."""

(
    NEED_HEAP, NEED_ROWS, NEED_COLUMNS, NEED_ATTEMPTS, NEED_SERVICE, NEED_DRAW, NEED_BLOCK, NEED_LINE, NEED_TRAFFIC,
    NEED_SUFFICIENT, NEED_PROBES, NEED_LATENCIES, NEED_SPANS,
) = range(13)  # fmt: skip
"""What the kernel asks Python for."""


def record(floats: str = "", **kinds: str) -> np.dtype[np.void]:
    """Return a record of 8-byte fields: `floats` and each of `kinds` are names with blanks between them."""
    fields = [(name, "f8") for name in floats.split()]
    fields += [(name, ROW) for names in kinds.values() for name in names.split()]
    return np.dtype(fields)


WORLD = record(
    "now after backup_after hedge_share backup_share budget probability cancel_seconds message_delay deadline max_wait "
    "group_max_wait instance_wait overhead objective increase backoff end",
    state="ids size room cancelled heap python at_instances self halted "
    "tasks free_task spare_tasks batches free_batch spare_batches groups free_group spare_groups most_tasks "
    "avoid parities members copies_kept k r",
    policy="policy copies cancel hedges watched hedging backing sees copying parity_pool backup_pool encode decode "
    "group groups_made coded_groups group_timer group_sizes any_k chances",
    frontend="alone waiting first batch_count filled_to awaits_more live due awaiting has_deadline came queries count "
    "adapts max_size closed sent think thought arrivals sees_arrivals launched",
    pools="pools farms instances queues limits gathers meets attempts bends bend_count delays delay_count outages "
    "outage_count learns learners known",
    draws="streams latest ordered window seen oldest least",
    columns="ended column_room owner role row attempt task_size instance queued sent_at start finish "
    "back fate together sent_bytes reply route used answered sizes firsts dispatched batch_row defaults default_count",
)
"""Everything there is once: the clock, options, counts, and addresses."""

TASK = record(
    "queued_at joined_at sent start finish",
    rows="entry pool batch group owner first size attempt instance state loss before after copy bundle together waiter "
    "moves found",
)
"""A task that has not ended. `entry` is its number in the heap, `before` and `after` are its neighbours in the queue,
`copy` is the next copy of its batch; `loss` says whether it will be lost: 1, and then retried, or 2, for good.

Where instances form batches, `bundle` is the first of those that it is served `together` with; that one's `after` leads
to the others, and its `entry` is that of all of them. `waiter` is the number of the entry at which it has waited long
enough for others. `moves` says that it is about to join another queue, since its instance has failed."""

BATCH = record(
    "dispatched",
    rows="number first size holds group slot task ghost head tail sent avoided timer backup backup_timer",
)
"""A batch that somebody may still ask for: `holds` counts who may. `head` to `tail` are its copies; `ghost` counts
those that were lost for good, of which a policy is not told."""

GROUP = record(rows="number holds size members listed unanswered returned used settled")
"""A coding group that somebody may still ask for. `members` counts its batches, `listed` the slots that they fill."""

ENTRY = record("time", rows="number what item")
"""An entry of the heap, as SimPy orders them: by time, then by number."""

POOL = record(rows="farm rank role row meets limit")
"""A pool, or a lane of a farm; `meets` is its first `MEET`; `limit` that of its batches, or -1 for none."""

LIMIT = record("exact", rows="now")
"""How many queries a model serves together at most: the pools of one model have one."""

MEET = record("send reply", rows="stream")
"""What tasks of a pool meet, by size and attempt."""

FARM = record(
    rows="instances first ranks shared steals queues idle head resting failed chooser turn d uniforms drawn scratch"
)
"""The instances of a pool, or of several that share them; `idle` is a ring where they share a queue."""

LEARNER = record(
    "decay timeout interval base longest swept probes removed age hot round_trip owed due part",
    rows="consecutive at_once moves out whole kept bytes_each pool answers pending head waiting room latest ordered "
    "reports oldest_next",
)
"""A router that learns, by its farm: options, what it has ejected, `answers` of probes in its `pool`, those `waiting`
in a ring of `room`, and the requests in flight that were reported last."""

PROBE = record("ready latency", rows="place rif left")
"""A probe's answer: when it is here, and how often it may still be used."""

KNOWN = record("cost stamp back", rows="failures times out seen counts medians room most")
"""What a router knows of an instance. `seen` are latencies by the tasks found there, `SEEN` of each of `room` numbers;
`counts` says how many there ever were, `most` what the greatest such number is."""

INSTANCE = record(rows="farm load free failed")
"""An instance; `load` counts its tasks, where it has a queue of its own, and `failed` says whether its failure has been
detected: 1, or 2 where its tasks are about to look for another queue."""

QUEUE = record(rows="front back")
"""The first and the last task that wait."""

BEND = record(rows="how values")
"""A straggler's bend: `values` are its `LINE` rows, factors, streams, or a `TENANCY`."""

TENANCY = record(
    "slowdown lag", rows="mutual shared count places lines states room starts finishes fronts backs paces ends"
)
"""A second service on `count` instances, which `places` numbers: the arrivals and work of its queues in `lines`, and
two `STATE` rows. Each of its instances has a row of `room` spans of our tasks, of which those from its `fronts` to its
`backs` are not over. `paces` and `ends` are those of its queries during a step."""

STATE = record("now", rows="left taken seen idle head resting")
"""A second service at a moment: the work left on each instance, how many queries of each queue have begun and have
arrived, and the ring of idle instances."""

DELAY = record("latency", rows="values flows waits count at crossed streams")
"""Bulk traffic: when each piece of time ends, how many flows cross each link then, what they keep in its buffer if that
lasts (then `streams` is -1), and where each instance is."""

OUTAGE = record("detect", rows="retry values")
"""Crashes; `values` is its first `LINE`."""

LINE = record(rows="first second count at")
"""An instance's condition over time: two columns of numbers, how many there are, and where the instance is."""

STREAM = record(rows="blocks count")
"""Addresses of a stream's blocks of draws, 0 where a block is not here."""

BLOCK_BITS = 12
"""A block has 4,096 draws (`sim.streams.BLOCK`)."""

COLUMN_TYPES = {
    "owner": "i4", "role": "u1", "row": "i1", "attempt": "i2", "task_size": "i4", "together": "i4", "instance": "i4",
    "queued": "f8", "sent_at": "f8", "start": "f8", "finish": "f8", "back": "f8", "fate": "u1",
}  # fmt: skip
"""The columns of `sim.trace.Tasks`; `task_size` and `sent_at` are `size` and `sent` there."""

MOSTLY_ZERO = {"role", "row", "attempt", "fate"}
"""Columns in which the kernel writes no zeros."""
