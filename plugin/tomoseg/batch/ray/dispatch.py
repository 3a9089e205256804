"""Which worker gets which case, and what becomes of the cases of a worker that dies."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from tomoseg.batch.cases import Case
from tomoseg.batch.progress import Outcomes, Progress
from tomoseg.batch.ray.worker import Started
from tomoseg.batch.stages import Outcome
from tomoseg.core.errors import WorkerError, one_line, shorten
from tomoseg.report.records import CaseReport

# A case is tried beside others in a worker; if that worker dies or memory runs out, with nothing else in its worker,
# for it may have been another's fault; and if it goes wrong again, with nothing else in the whole run.
MAX_TRIES_PER_SCAN = 3
MAX_STARTS_PER_WORKER = 3  # of a worker that dies before it is ready
WORKER_START_S = 600.0  # a machine may have to be started for the first worker


@dataclass(eq=False)
class _Slot:
    """A worker.

    Attributes:
        actor: Ray's handle.
        is_replacement: whether it stands in for one that died at work.
        failures: workers in its place that died before they were ready.
        machine: where it runs, once it is ready.
        cases: those that it has.
    """

    actor: Any
    is_replacement: bool = False
    failures: int = 0
    machine: str = ""
    cases: set[int] = field(default_factory=set)


# whose it is, the case (None for the start of the worker), and the result
_Event: TypeAlias = tuple[_Slot, int | None, Any]


@dataclass(eq=False)
class Dispatch:
    """Hands cases to workers, a few at a time to each, as they get done.

    Attributes:
        ray: the module.
        make_actor: starts a worker.
        workers: how many.
        in_flight: cases that a worker has at once.
        accept: called with what a worker says of itself; raises WorkerError if it cannot work here.
        progress: notes the workers that are lost.
    """

    ray: Any
    make_actor: Callable[[], Any]
    workers: int
    in_flight: int
    accept: Callable[[Started], None]
    progress: Progress
    _events: SimpleQueue[_Event] = field(default_factory=SimpleQueue, init=False)
    _worked: bool = field(default=False, init=False)
    _cases: Sequence[Case] = field(default=(), init=False)
    _tries: Counter[int] = field(default_factory=Counter, init=False)
    _queues: tuple[deque[int], ...] = field(init=False)
    _hands: list[_Slot] = field(default_factory=list, init=False)

    def run(self, cases: Sequence[Case]) -> Outcomes:
        """Yield the index of each case and what came of it, as they get done; the workers end with it.

        Raises:
            WorkerError: no worker can be started, or one cannot work here.
        """
        self._cases = cases
        self._queues = (deque(range(len(cases))), *(deque[int]() for _ in range(MAX_TRIES_PER_SCAN - 1)))
        left = len(cases)
        try:
            for _ in range(min(self.workers, left)):
                self._add_slot(is_replacement=False, failures=0)
            while left:
                for outcome in self._next_outcomes():
                    left -= 1
                    yield outcome
        finally:
            for slot in self._hands:
                self.ray.kill(slot.actor)

    def _next_outcomes(self) -> list[tuple[int, CaseReport]]:
        """Wait for the next event; return the cases that it finishes."""
        try:
            working = any(slot.machine for slot in self._hands)
            slot, index, future = self._events.get(timeout=None if working else WORKER_START_S)
        except Empty:
            return self._give_up(
                f"no machine had room for a worker in {WORKER_START_S:.0f} s; `ray status` lists free resources"
            )
        if index is None:
            outcomes = self._start(slot, future)
        else:
            slot.cases.discard(index)
            outcomes = self._come_back(slot, index, future)
        # at first, only a worker that has finished a case can take one; later, any may have waited for it
        for other in [slot] if self._queues[0] else list(self._hands):
            self._assign(other)
        return outcomes

    def _start(self, slot: _Slot, future: Any) -> list[tuple[int, CaseReport]]:
        error = future.exception()
        if error is None:
            started: Started = future.result()
            try:
                self.accept(started)
            except WorkerError as refusal:
                if not slot.is_replacement:  # the user has to repair the machine
                    raise
                problem = one_line(refusal)
                self.progress.on_note(f"{problem}; it is left out")
            else:
                slot.machine, self._worked = started.machine, True
                return []
        else:
            problem = f"a worker died before it was ready: {describe_death(error)}"
        self._remove_slot(slot)
        if error is not None and slot.failures + 1 < MAX_STARTS_PER_WORKER:
            self._add_slot(slot.is_replacement, slot.failures + 1)
        return [] if self._hands else self._give_up(problem)

    def _come_back(self, slot: _Slot, index: int, future: Any) -> list[tuple[int, CaseReport]]:
        self._tries[index] += 1
        error = future.exception()
        if error is None:
            outcome: Outcome = future.result()
            if isinstance(outcome, CaseReport):
                return [(index, outcome)]
            report = outcome.report
        else:
            death = describe_death(error)
            if slot in self._hands:
                self.progress.on_note(f"worker on {slot.machine}: {death}; its scans are tried again")
                self._remove_slot(slot)  # it may only be out of reach
                self._add_slot(is_replacement=True, failures=0)
            report = self._failed(
                index, f"{MAX_TRIES_PER_SCAN} workers ended at it, the last with no other scan in the run: {death}"
            )
        if self._tries[index] == MAX_TRIES_PER_SCAN:
            return [(index, report)]
        self._queues[self._tries[index]].append(index)
        return []

    def _give_up(self, problem: str) -> list[tuple[int, CaseReport]]:
        """Return the cases without a worker as failed."""
        if not self._worked:
            raise WorkerError(f"Ray: {problem}")
        waiting = [index for queue in self._queues for index in queue]
        for queue in self._queues:
            queue.clear()
        return [(index, self._failed(index, f"no worker is left for it: {problem}")) for index in waiting]

    def _failed(self, index: int, why: str) -> CaseReport:
        path = self._cases[index].input
        return CaseReport.failure(path, f"{path}: {why}")

    def _remove_slot(self, slot: _Slot) -> None:
        self._hands.remove(slot)
        slot.machine = ""
        self.ray.kill(slot.actor)

    def _add_slot(self, is_replacement: bool, failures: int) -> None:
        slot = _Slot(self.make_actor(), is_replacement, failures)
        self._hands.append(slot)
        self._expect(slot, None, slot.actor.start.remote())

    def _assign(self, slot: _Slot) -> None:
        while slot.machine and (index := self._choose(slot)) is not None:
            slot.cases.add(index)
            self._expect(slot, index, slot.actor.segment.remote(self._cases[index]))

    def _choose(self, slot: _Slot) -> int | None:
        """Return the case that a worker may have now."""
        beside_others, alone_in_worker, alone_in_run = self._queues
        if beside_others:
            return beside_others.popleft() if len(slot.cases) < self.in_flight else None
        if slot.cases:
            return None
        if alone_in_worker:
            return alone_in_worker.popleft()
        if alone_in_run and not any(other.cases for other in self._hands):
            return alone_in_run.popleft()
        return None

    def _expect(self, slot: _Slot, index: int | None, reference: Any) -> None:
        # a queue costs the same for 3 cases in flight and for 3000; `ray.wait` looks at all of them each time
        reference.future().add_done_callback(lambda future: self._events.put((slot, index, future)))


def describe_death(error: BaseException) -> str:
    """Return how a worker ended, without the addresses and the advice that Ray puts around it."""
    text = str(error)
    if "creation task" in text:  # the failed import stands last
        return shorten(text.strip().splitlines()[-1], 300)
    if "low on memory" in text:
        return "its machine ran low on memory, and Ray killed it"
    if "its node has died" in text:
        return "its machine was lost"
    return "it crashed or was killed, as systems do when memory runs out"
