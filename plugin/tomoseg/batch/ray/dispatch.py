"""Which worker gets which case, and what becomes of the cases of a worker that dies."""

from __future__ import annotations

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
    _hands: list[_Hand] = field(default_factory=list, init=False)

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
                self._hire(is_replacement=False, failures=0)
            while left:
                for outcome in self._next_outcomes():
                    left -= 1
                    yield outcome
        finally:
            for hand in self._hands:
                self.ray.kill(hand.actor)

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
                self.accept(started)
            except WorkerError as refusal:
                if not hand.is_replacement:  # somebody has to mend it
                    raise
                problem = one_line(refusal)
                self.progress.on_note(f"{problem}; it is left out")
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
        self._tries[index] += 1
        error = future.exception()
        if error is None:
            outcome: Outcome = future.result()
            if isinstance(outcome, CaseReport):
                return [(index, outcome)]
            report = outcome.report
        else:
            death = describe_death(error)
            if hand in self._hands:
                self.progress.on_note(f"worker on {hand.machine}: {death}; what it was at is tried again")
                self._dismiss(hand)  # it may only be out of reach
                self._hire(is_replacement=True, failures=0)
            report = self._failed(
                index, f"{MAX_TRIES_PER_SCAN} workers ended at it, the last with no other scan in the run: {death}"
            )
        if self._tries[index] == MAX_TRIES_PER_SCAN:
            return [(index, report)]
        self._queues[self._tries[index]].append(index)
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
        path = self._cases[index].input
        return CaseReport.failure(path, f"{path}: {why}")

    def _dismiss(self, hand: _Hand) -> None:
        self._hands.remove(hand)
        hand.machine = ""
        self.ray.kill(hand.actor)

    def _hire(self, is_replacement: bool, failures: int) -> None:
        hand = _Hand(self.make_actor(), is_replacement, failures)
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
            return beside_others.popleft() if len(hand.cases) < self.in_flight else None
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
