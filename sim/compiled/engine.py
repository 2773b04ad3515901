"""One simulation on the kernel: what it needs is laid out in arrays, and more is added to them where it runs out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cluster import Cluster
from sim.compiled import layout
from sim.compiled.arrays import Arrays, Blocks, ChainLine, Line, SecondService, TrafficLine
from sim.compiled.cache import Kernel
from sim.compiled.columns import columns, trace
from sim.compiled.learners import Learners
from sim.compiled.world import options
from sim.dispatching import BestOf, IdleQueue, QueueEach, RandomQueue, RoundRobin, ShortestQueue, SingleQueue, uniform
from sim.distributions import Distribution
from sim.distributions.families import Deterministic
from sim.policies import Hedged, Policy
from sim.policies.base import PoolPlan
from sim.recorder import UNANSWERED
from sim.routing import Learning, LeastRequest
from sim.schedule import ClosedSchedule, Schedule
from sim.stragglers.base import Chains, Crashing, Draws, Effect, Factors, Pieces, Tenancy, Traffic
from sim.streams import BLOCK, Stream, Streams
from sim.trace import Role, Trace

Callback = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)

FIRST_ROWS = 256
"""Rows for tasks, batches and groups to begin with."""
FIRST_ENTRIES = 1024
"""Entries in the heap to begin with."""
FIRST_ATTEMPTS = 2
"""Attempts of a task to begin with."""

OURS = (
    *(layout.NEED_ROWS, layout.NEED_HEAP, layout.NEED_COLUMNS, layout.NEED_ATTEMPTS),
    *(layout.NEED_PROBES, layout.NEED_LATENCIES, layout.NEED_SPANS),
)
"""What is asked for that calls no option's own code; it is there after an error, too, until the event has ended."""


class Engine:
    """A simulation's memory, and the answers to what the kernel asks."""

    def __init__(
        self,
        cluster: Cluster,
        policy: Policy,
        effects: Sequence[Effect],
        schedule: Schedule,
        streams: Streams,
        deadline: float | None,
    ) -> None:
        self._cluster = cluster
        self._policy = policy
        self._schedule = schedule
        self._streams = streams
        self._plans = policy.pools(cluster)
        self._arrays = Arrays()
        self._blocks = Blocks(self._arrays)
        self._error: BaseException | None = None
        self._nothing = np.zeros(BLOCK)
        self._lines: dict[tuple[int, int], Line] = {}
        self._traffic: list[TrafficLine] = []
        self._second: dict[int, SecondService] = {}
        self._drawn: dict[int, tuple[Callable[[int, int, int], Stream], NDArray[np.int64]]] = {}
        for name, value in options(cluster, policy, deadline).items():
            self._arrays.world[name] = value
        self._launch()
        self._rows()
        self._columns()
        self._attach(effects)
        for name, seconds in (("encode", cluster.encode), ("decode", cluster.decode)):
            self._arrays.world[name] = self._delay(seconds, name)
        self._arrays.world["chances"] = self._blocks.add(streams.stream(uniform, "hedge"))

    def run(self, kernel: Kernel) -> Trace:
        """Simulate and return the trace; raises whatever an option's own code raised."""
        world = self._arrays.world
        callback = Callback(self._ask)
        world["python"] = ctypes.cast(callback, ctypes.c_void_p).value
        world["at_instances"] = kernel.at_instances.address
        world["self"] = world.ctypes.data
        kernel.simulate(world)
        if self._error is not None:
            raise self._error
        return trace(self._arrays, self._cluster, self._policy, self._schedule, self._plans)

    def _delay(self, seconds: Distribution, work: str) -> int:
        if not self._arrays.get("k") or (isinstance(seconds, Deterministic) and seconds.value == 0.0):
            return -1
        return self._blocks.add(self._streams.stream(seconds.sample, work))

    # ------------------------------------------------------------ what is laid out

    def _launch(self) -> None:
        """Lay out pools, the farms of instances that they have, and queues."""
        queue, plans, arrays = self._cluster.queue, self._plans, self._arrays
        shared = isinstance(queue, SingleQueue)
        sizes = self._sizes = arrays.get("max_size")
        arrays["pools"] = pools = np.zeros(len(plans), layout.POOL)
        arrays["farms"] = farms = np.zeros(len(plans), layout.FARM)
        arrays["instances"] = np.zeros(sum(plan.instances for plan in plans), layout.INSTANCE)
        arrays["meets"] = np.zeros(len(plans) * sizes * FIRST_ATTEMPTS, layout.MEET)
        arrays["meets"]["stream"] = -1
        arrays.world["attempts"] = FIRST_ATTEMPTS
        arrays.world["launched"] = self._cluster.launched or len(arrays["instances"])
        self._scratch: list[NDArray[Any]] = []
        count = first = 0
        self._homes: list[tuple[int, int]] = []
        self._learners = Learners(arrays, len(plans), len(arrays["instances"]))
        for number, (plan, pool) in enumerate(zip(plans, pools, strict=True)):
            joins = number > 0 and plan.rank is not None
            pool["farm"] = 0 if joins else count
            pool["rank"], pool["role"], pool["row"] = plan.rank or 0, plan.role, plan.row
            pool["meets"] = number * sizes * FIRST_ATTEMPTS
            farm = farms[pool["farm"]]
            farm["ranks"] = max(farm["ranks"], pool["rank"] + 1)
            if joins:
                continue
            self._homes.append((int(plan.role), plan.row))
            farm["first"], farm["instances"], farm["shared"], farm["turn"] = first, plan.instances, shared, -1
            farm["idle"] = self._address(np.arange(first, first + plan.instances, dtype=np.int64))
            farm["resting"] = plan.instances
            here = arrays["instances"][first : first + plan.instances]
            here["farm"], here["free"] = count, 1
            if not shared:
                self._route(count, plan)
            count += 1
            first += plan.instances
        queues = 0
        for farm in farms[:count]:
            farm["queues"] = queues
            queues += int(farm["ranks"] * (1 if shared else farm["instances"]))
        arrays["queues"] = np.zeros(queues, layout.QUEUE)
        arrays["queues"]["front"] = arrays["queues"]["back"] = -1
        self._limits()

    def _route(self, number: int, plan: PoolPlan) -> None:
        """Lay out what chooses among the queues of a farm's instances."""
        farm, queue = self._arrays["farms"][number], self._cluster.queue
        assert isinstance(queue, QueueEach)
        farm["steals"] = queue.steal
        drawn = 0
        match queue:
            case RandomQueue():
                farm["chooser"], farm["d"], drawn = layout.BEST, 1, 1
            case BestOf() | LeastRequest(ejection=None):
                farm["chooser"], farm["d"], drawn = layout.BEST, queue.d, queue.d
            case Learning():
                farm["chooser"], farm["d"], drawn = self._learners.add(number, queue, plan.instances)
                self._arrays.world["learns"] = 1
            case IdleQueue():
                farm["chooser"] = layout.IDLE
            case RoundRobin() | ShortestQueue():
                farm["chooser"] = layout.TURNS if isinstance(queue, RoundRobin) else layout.SHORTEST
        farm["uniforms"] = self._blocks.add(self._streams.stream(uniform, "routing", plan.role, plan.row))
        farm["scratch"] = self._address(np.zeros(drawn, np.int64))

    def _limits(self) -> None:
        """Lay out the sizes of batches: one for each model where instances form them, else that of the deployed one."""
        arrays, start = self._arrays, self._cluster.batching.start().now
        models = list(dict.fromkeys(plan.serves for plan in self._plans))
        arrays["limits"] = limits = np.zeros(len(models), layout.LIMIT)
        limits["exact"], limits["now"] = start, start
        for plan, pool in zip(self._plans, arrays["pools"], strict=True):
            counts = arrays.get("gathers") or plan.served_by is Role.DEPLOYED
            pool["limit"] = models.index(plan.serves) if counts else -1

    def _address(self, array: NDArray[Any]) -> int:
        """Keep an array, and return its address."""
        self._scratch.append(array)
        return array.ctypes.data

    def _rows(self) -> None:
        """Lay out the heap and the rows of tasks, batches and groups."""
        arrays = self._arrays
        copies, k, r = arrays.get("copies"), arrays.get("k"), arrays.get("r")
        arrays.world["most_tasks"] = max(copies, r + 1, 2) + 2
        arrays.world["copies_kept"] = copies
        arrays.world["ids"] = 1
        arrays["heap"] = np.zeros(FIRST_ENTRIES, layout.ENTRY)
        arrays.world["room"] = FIRST_ENTRIES
        arrays["tasks"] = np.zeros(0, layout.TASK)
        arrays["batches"] = np.zeros(0, layout.BATCH)
        arrays["groups"] = np.zeros(0, layout.GROUP)
        arrays["avoid"] = np.zeros((0, copies), np.int64)
        arrays["members"] = np.zeros((0, k), np.int64)
        arrays["parities"] = np.zeros((0, r), np.int64)
        self._grow_rows()
        arrays["ordered"] = np.zeros(arrays.get("window") + 1)
        arrays["latest"] = np.zeros(arrays.get("window"))

    def _columns(self) -> None:
        """Lay out the columns of the trace, and what the frontend notes of each query or batch."""
        arrays, schedule, n = self._arrays, self._schedule, len(self._schedule)
        arrays.world["queries"] = n
        k, r = self._policy.group
        each = r / k if arrays.get("policy") == layout.COLLECTED else 1 + (r / k if k else 0)
        copies = (
            1.1 if isinstance(self._policy, Hedged) else 2 if arrays.get("backup_pool") == 1 else arrays.get("copies")
        )
        room = int(n * each * (copies if not k else 1)) + arrays.get("r") + 64
        arrays.world["column_room"] = room
        for name in columns(arrays):
            make = np.zeros if name in layout.MOSTLY_ZERO else np.empty
            arrays[name] = make(room, layout.COLUMN_TYPES[name])
        arrays["sent_bytes"] = np.zeros(5, np.int64)
        arrays["reply"] = np.empty(n)
        arrays["route"] = np.zeros(n, np.uint8)
        arrays["used"] = np.zeros(n, np.int64)
        arrays["answered"] = np.zeros(n, np.uint8)
        if not arrays.get("alone"):
            arrays["sizes"] = np.empty(n, np.int32)
            arrays["firsts"] = np.empty(n, np.int64)
            arrays["dispatched"] = np.empty(n)
        if arrays.get("has_deadline"):
            arrays["batch_row"] = np.empty(n, np.int64)
            arrays["defaults"] = np.full(n, UNANSWERED)
        if arrays.get("policy") == layout.COLLECTED:
            arrays["group_sizes"] = np.empty(n, np.int32)
        if isinstance(schedule, ClosedSchedule):
            arrays.world["closed"] = min(schedule.clients, n)
            arrays["think"] = np.ascontiguousarray(schedule.think, np.float64)
            for name in ("thought", "arrivals", "came"):
                arrays[name] = np.empty(n)
        else:
            overhead = self._cluster.network.overhead
            came = schedule.times + overhead if overhead else schedule.times
            arrays["came"] = np.ascontiguousarray(came, np.float64)

    def _attach(self, effects: Sequence[Effect]) -> None:
        """Lay out what stragglers do, in their order."""
        arrays, instances = self._arrays, self._arrays.get("launched")
        forms = [effect.form for effect in effects]
        bends = [form for form in forms if isinstance(form, Pieces | Tenancy | Chains | Factors | Draws)]
        arrays["bends"] = np.zeros(len(bends), layout.BEND)
        arrays.world["bend_count"] = len(bends)
        for i, (form, bend) in enumerate(zip(bends, arrays["bends"], strict=True)):
            match form:
                case Pieces():
                    bend["how"], bend["values"] = layout.PIECES, self._line_rows(i, form.of_instance, Line)
                case Tenancy():
                    self._second[i] = SecondService(form, self._line_rows(i, form.arrivals, Line))
                    bend["how"], bend["values"] = layout.TENANTS, self._second[i].address
                case Chains():
                    bend["how"], bend["values"] = layout.CHAIN, self._line_rows(i, form.of_instance, ChainLine)
                case Factors():
                    bend["how"] = layout.FACTOR
                    bend["values"] = self._address(np.array(form.of_instance, np.float64))
                case Draws():
                    bend["how"] = layout.ADD if form.adds else layout.MULTIPLY
                    table = np.full((len(self._homes), FIRST_ATTEMPTS), -1, np.int64)
                    self._drawn[i] = form.stream, table
                    bend["values"] = table.ctypes.data
        bulk = [form for form in forms if isinstance(form, Traffic)]
        arrays["delays"] = np.zeros(len(bulk), layout.DELAY)
        arrays.world["delay_count"] = len(bulk)
        for flows, delay in zip(bulk, arrays["delays"], strict=True):
            delay["at"] = self._address(np.zeros(instances, np.int64))
            delay["crossed"] = self._address(np.zeros(2 * instances, np.int64))
            numbers = [self._blocks.add(stream) for both in flows.backlog or () for stream in both]
            delay["latency"] = flows.latency
            delay["streams"] = numbers[0] if numbers else -1  # the others follow it
            self._traffic.append(TrafficLine(delay, flows.pieces, instances))
        crashes = [form for form in forms if isinstance(form, Crashing)]
        arrays["outages"] = np.zeros(len(crashes), layout.OUTAGE)
        arrays.world["outage_count"] = len(crashes)
        for i, (crashing, outage) in enumerate(zip(crashes, arrays["outages"], strict=True)):
            outage["detect"], outage["retry"] = crashing.detect, crashing.retry
            outage["values"] = self._line_rows(-1 - i, crashing.of_instance, Line)

    def _line_rows(self, number: int, of_instance: Sequence[Any], kind: type[Line]) -> int:
        rows = np.zeros(len(of_instance), layout.LINE)
        for instance, (record, numbers) in enumerate(zip(rows, of_instance, strict=True)):
            self._lines[number, instance] = kind(record, numbers)
        return self._address(rows)

    # ------------------------------------------------------------ what the kernel asks for

    def _ask(self, what: int, first: int, second: int) -> int:
        """Answer the kernel. It knows no exceptions, so it is halted, and given something to end its event with."""
        try:
            if self._error is None or what in OURS:
                return self._answer(what, first, second)
        except BaseException as error:
            self._error = error
            self._arrays.world["halted"] = 1
        if what == layout.NEED_SERVICE:
            self._arrays["meets"]["stream"][second] = 0
        elif what == layout.NEED_DRAW:
            self._drawn[first][1].flat[second] = 0
        elif what == layout.NEED_LINE:
            self._lines[first, second].end(1.0 if first >= 0 else np.inf)  # a factor, or a repair
        elif what == layout.NEED_TRAFFIC:
            self._traffic[first].end()
        elif what == layout.NEED_HEAP:
            self._arrays.world["size"] = 0
        elif what == layout.NEED_COLUMNS:
            self._arrays.world["ended"] = 0
        return self._nothing.ctypes.data

    def _answer(self, what: int, first: int, second: int) -> int:
        arrays = self._arrays
        match what:
            case layout.NEED_BLOCK:
                return self._blocks.fetch(first, second)
            case layout.NEED_SERVICE:
                self._meet(first, second)
            case layout.NEED_LINE:
                self._lines[first, second].extend()
            case layout.NEED_TRAFFIC:
                self._traffic[first].extend()
            case layout.NEED_SPANS:
                self._second[first].grow()
            case layout.NEED_SUFFICIENT:
                code = self._policy.erasure_code
                assert code is not None
                return int(code.sufficient(*self._policy.group, first))
            case layout.NEED_DRAW:
                stream, table = self._drawn[first]
                farm, attempt = divmod(second, arrays.get("attempts"))
                table[farm, attempt] = self._blocks.add(stream(*self._homes[farm], attempt))
            case layout.NEED_ROWS:
                self._grow_rows()
            case layout.NEED_PROBES:
                self._learners.more_probes(first, second)
            case layout.NEED_LATENCIES:
                self._learners.more_latencies(first, second)
            case layout.NEED_HEAP:
                arrays.resize("heap", 2 * len(arrays["heap"]))
                arrays.world["room"] = len(arrays["heap"])
            case layout.NEED_COLUMNS:
                room = len(arrays["fate"]) * 5 // 4 + 64
                for name in columns(arrays):
                    arrays.resize(name, room)
                arrays.world["column_room"] = room
            case layout.NEED_ATTEMPTS:
                self._more_attempts(first)
        return 0

    def _meet(self, number: int, row: int) -> None:
        """Say what tasks of a pool meet, by the row of their size and attempt."""
        arrays, network, plan = self._arrays, self._cluster.network, self._plans[number]
        offset = row - int(arrays["pools"]["meets"][number])
        size, attempt = divmod(offset, arrays.get("attempts"))
        sample = self._cluster.service_of(plan.served_by, size + 1).sample
        stream = self._blocks.add(self._streams.stream(sample, "service", plan.role, plan.row, attempt))
        send = network.seconds(network.bytes_to(plan.role), size + 1)
        arrays["meets"][row] = (send, network.seconds(network.reply_bytes, size + 1), stream)

    def _more_attempts(self, attempt: int) -> None:
        """Make room for tasks that were lost and sent again more often than before."""
        arrays, before = self._arrays, self._arrays.get("attempts")
        after = 2 * attempt
        old = arrays["meets"].reshape(-1, before)
        new = np.zeros((len(old), after), layout.MEET)
        new["stream"] = -1
        new[:, :before] = old
        arrays["meets"] = new.reshape(-1)
        arrays["pools"]["meets"] = np.arange(len(self._plans)) * self._sizes * after
        arrays.world["attempts"] = after
        for i, (stream, table) in self._drawn.items():
            wider = np.full((len(table), after), -1, np.int64)
            wider[:, :before] = table
            self._drawn[i] = stream, wider
            arrays["bends"]["values"][i] = wider.ctypes.data

    def _grow_rows(self) -> None:
        """Let there be enough free rows of each kind, and twice as many where there were too few."""
        arrays = self._arrays
        least = max(FIRST_ROWS, 2 * arrays.get("most_tasks"))
        if arrays.get("spare_tasks") < arrays.get("most_tasks"):
            arrays.rows("tasks", "free_task", "spare_tasks", "after", max(least, 2 * len(arrays["tasks"])))
        if arrays.get("spare_batches") < 2:
            arrays.rows("batches", "free_batch", "spare_batches", "head", max(least, 2 * len(arrays["batches"])))
            arrays.resize("avoid", len(arrays["batches"]))
        if arrays.get("spare_groups") < 2:
            arrays.rows("groups", "free_group", "spare_groups", "number", max(least, 2 * len(arrays["groups"])))
            arrays.resize("members", len(arrays["groups"]))
            arrays.resize("parities", len(arrays["groups"]))
