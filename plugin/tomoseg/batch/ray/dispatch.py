"""Which worker gets which case, and what becomes of the cases of a worker that dies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from tomoseg.batch.cases import Case
from tomoseg.batch.ray.worker import Done, Started
from tomoseg.core.errors import WorkerError, one_line, shorten
from tomoseg.report.records import CaseReport

# A case is tried beside others in a worker; if that worker dies or memory runs out, with nothing else in its worker,
# for it may have been another's fault; and if it goes wrong again, with nothing else in the whole run.
MAX_TRIES_PER_SCAN = 3
MAX_STARTS_PER_WORKER = 3  # of a worker that dies before it is ready
WORKER_START_S = 600.0  # a machine may have to be started for the first worker


@dataclass(eq=False)
class _Hand:
    """A worker.

    Args:
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
_Event: TypeAlias = tuple[_Hand, int | None, Any]


class Dispatch:
    """Hands cases to workers, a few at a time to each, as they get done.

    Args:
        ray: the module.
        make_actor: starts a worker.
        workers: how many.
        in_flight: cases that a worker has at once.
        accept: called with what a worker says of itself; raises WorkerError if it cannot work here.
        on_note: called when a worker is lost.
    """

    def __init__(
        self,
        ray: Any,
        make_actor: Callable[[], Any],
        workers: int,
        in_flight: int,
        accept: Callable[[Started], None],
        on_note: Callable[[str], None] | None,
    ) -> None:
        self.backend = ""  # known for sure once a network was compiled
        self._ray = ray
        self._make_actor = make_actor
        self._in_flight = in_flight
        self._accept = accept
        self._on_note = on_note
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._worked = False
        self._cases: Sequence[Case] = ()
        self._tries: dict[int, int] = {}
        self._queues = tuple(deque[int]() for _ in range(MAX_TRIES_PER_SCAN))
        self._hands: list[_Hand] = []
        self._workers = workers

    def run(self, cases: Sequence[Case]) -> Generator[tuple[int, CaseReport], None, None]:
        """Yield the index of each case and what came of it, as they get done; the workers end with it.

        Raises:
            WorkerError: no worker can be started, or one cannot work here.
        """
        self._cases = cases
        self._queues[0].extend(range(len(cases)))
        left = len(cases)
        try:
            for _ in range(min(self._workers, left)):
                self._hire(is_replacement=False, failures=0)
            while left:
                for outcome in self._next_outcomes():
                    left -= 1
                    yield outcome
        finally:
            for hand in self._hands:
                self._ray.kill(hand.actor)

    def _next_outcomes(self) -> list[tuple[int, CaseReport]]:
        """Wait until something happens; return the cases that are done with by it."""
        try:
            working = any(hand.machine for hand in self._hands)
            hand, index, future = self._events.get(timeout=None if working else WORKER_START_S)
        except Empty:
            return self._give_up(
                f"no machine had room for a worker in {WORKER_START_S:.0f} s; `ray status` tells what is free"
            )
        if index is None:
            outcomes = self._start(hand, future)
        else:
            hand.cases.discard(index)
            outcomes = self._come_back(hand, index, future)
        # at first, only who has got something done can take something; later, anybody may have waited for it
        for other in [hand] if self._queues[0] else list(self._hands):
            self._feed(other)
        return outcomes

    def _start(self, hand: _Hand, future: Any) -> list[tuple[int, CaseReport]]:
        error = future.exception()
        if error is None:
            started: Started = future.result()
            try:
                self._accept(started)
            except WorkerError as refusal:
                if not hand.is_replacement:  # somebody has to mend it
                    raise
                problem = one_line(refusal)
                self._tell(f"{problem}; it is left out")
            else:
                hand.machine, self._worked = started.machine, True
                return []
        else:
            problem = f"a worker died before it was ready: {describe_death(error)}"
        self._dismiss(hand)
        if error is not None and hand.failures + 1 < MAX_STARTS_PER_WORKER:
            self._hire(hand.is_replacement, hand.failures + 1)
        return [] if self._hands else self._give_up(problem)

    def _come_back(self, hand: _Hand, index: int, future: Any) -> list[tuple[int, CaseReport]]:
        tries = self._tries[index] = self._tries.get(index, 0) + 1
        error = future.exception()
        if error is None:
            done: Done = future.result()
            if isinstance(done.outcome, CaseReport):
                if done.outcome.status == "done":
                    self.backend = done.backend
                return [(index, done.outcome)]
            report = done.outcome.report
        else:
            death = describe_death(error)
            if hand in self._hands:
                self._tell(f"worker on {hand.machine}: {death}; what it was at is tried again")
                self._dismiss(hand)  # it may only be out of reach
                self._hire(is_replacement=True, failures=0)
            report = self._failed(
                index, f"{MAX_TRIES_PER_SCAN} workers ended at it, the last with no other scan in the run: {death}"
            )
        if tries == MAX_TRIES_PER_SCAN:
            return [(index, report)]
        self._queues[tries].append(index)
        return []

    def _give_up(self, problem: str) -> list[tuple[int, CaseReport]]:
        """Return the cases that nobody is left for as failed."""
        if not self._worked:
            raise WorkerError(f"Ray: {problem}")
        waiting = [index for queue in self._queues for index in queue]
        for queue in self._queues:
            queue.clear()
        return [(index, self._failed(index, f"no worker is left for it: {problem}")) for index in waiting]

    def _failed(self, index: int, why: str) -> CaseReport:
        path = str(self._cases[index].input)
        return CaseReport(input=path, output=None, status="failed", reason=f"{path}: {why}")

    def _tell(self, note: str) -> None:
        if self._on_note is not None:
            self._on_note(note)

    def _dismiss(self, hand: _Hand) -> None:
        self._hands.remove(hand)
        hand.machine = ""
        self._ray.kill(hand.actor)

    def _hire(self, is_replacement: bool, failures: int) -> None:
        hand = _Hand(self._make_actor(), is_replacement, failures)
        self._hands.append(hand)
        self._expect(hand, None, hand.actor.start.remote())

    def _feed(self, hand: _Hand) -> None:
        while hand.machine and (index := self._choose(hand)) is not None:
            hand.cases.add(index)
            self._expect(hand, index, hand.actor.segment.remote(self._cases[index]))

    def _choose(self, hand: _Hand) -> int | None:
        """Return the case that a worker may have now."""
        beside_others, alone_in_worker, alone_in_run = self._queues
        if beside_others:
            return beside_others.popleft() if len(hand.cases) < self._in_flight else None
        if hand.cases:
            return None
        if alone_in_worker:
            return alone_in_worker.popleft()
        if alone_in_run and not any(other.cases for other in self._hands):
            return alone_in_run.popleft()
        return None

    def _expect(self, hand: _Hand, index: int | None, reference: Any) -> None:
        # a queue costs the same for 3 cases in flight and for 3000; `ray.wait` looks at all of them each time
        reference.future().add_done_callback(lambda future: self._events.put((hand, index, future)))


def describe_death(error: BaseException) -> str:
    """Return how a worker ended, without the addresses and the advice that Ray puts around it."""
    text = str(error)
    if "creation task" in text:  # what it could not import stands last
        return shorten(text.strip().splitlines()[-1], 300)
    if "low on memory" in text:
        return "its machine ran low on memory, and Ray killed it"
    if "its node has died" in text:
        return "its machine was lost"
    return "it crashed or was killed, as systems do when memory runs out"
