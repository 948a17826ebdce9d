"""Verification in worker processes that are killed and replaced when they exceed their time or memory limit."""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache

from sieverl.errors import UsageError
from sieverl.text import storable
from sieverl.types import Progress, Row, Status, Verdict, unwatched
from sieverl.verify.forked import fork, names_given
from sieverl.verify.process import LOAD_S, START_S, GarbledError, Message, Worker, fatal_error, parse_verdict
from sieverl.verify.registry import make_verifier
from sieverl.verify.verifier import REFUSED, Spec

BATCH = 16  # most responses that are sent to a worker at once
REASONS = 100  # most error messages that are counted separately
LOOK_S = 1.0  # seconds between two looks at whether there are new verdicts
TIMEOUT = Verdict(0.0, False, Status.VERIFIER_TIMEOUT)


@dataclass
class PendingVerdicts:
    """The verdicts that one call of `collect` waits for; `pending` of them are missing."""

    verdicts: dict[Hashable, Verdict] = field(default_factory=dict)
    pending: int = 0


@dataclass(frozen=True)
class Submission:
    """One response on its way to a worker."""

    destination: PendingVerdicts
    key: Hashable
    response: str
    row: Row


class Pool:
    r"""Verifies responses while others are still being generated; a context manager.

    `submit` returns at once. What the cheap path of the verifier decides never leaves this process; the rest goes to
    `workers` processes. Each response has `timeout_s` seconds and `memory_mb` MiB of memory beyond the imports. One
    that exceeds a limit gets the status `verifier_timeout` or `verifier_error` and is counted; it does not stop the
    run. A worker has no `network` where the system can deny it, and of the environment only what programs need to
    start, and the variables named in `environment`. Raises UsageError for limits or a specification that cannot work
    and for a worker that does not start, DataError for a row that cannot be used.

    >>> with Pool({"name": "math"}) as pool:
    ...     [verdict.reward for verdict in pool.verdicts([(r"\boxed{4}", {"answer": "4"}), ("four", {"answer": "4"})])]
    [1.0, 0.0]
    """

    def __init__(
        self,
        spec: Spec,
        workers: int = 2,
        timeout_s: float = 5.0,
        memory_mb: int = 1024,
        network: bool = False,
        environment: Sequence[str] = (),
    ) -> None:
        if workers < 1 or timeout_s <= 0 or memory_mb < 1:
            raise UsageError(
                f"verify.workers is {workers}, timeout_s {timeout_s}, memory_mb {memory_mb}; each must be above 0."
            )
        self.verifier = make_verifier(spec)
        self.timeouts = self.errors = self.restarts = 0
        self.reasons: Counter[str] = Counter()
        self._config: Message = {"spec": spec, "timeout_s": timeout_s, "memory_mb": memory_mb, "network": network}
        self._environment, self._forks = tuple(environment), any(names_given(spec))
        self._limit, self._timeout_s = workers, timeout_s
        self._queue: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._pending = PendingVerdicts()
        self._threads: list[threading.Thread] = []
        self._workers: set[Worker] = set()
        self._idle = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._loaded = False  # a worker has loaded the verifier
        self._declared: bool | None = None  # what the verifier then said of its rewards
        if not self.verifier.total:
            self._grow()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, key: Hashable, response: str, row: Row) -> None:
        """Start to verify a response; the next `collect` returns its verdict under `key`."""
        self._submit(self._pending, key, response, row)

    def collect(self, progress: Progress = unwatched) -> dict[Hashable, Verdict]:
        """Wait for the verdicts on everything submitted since the last call, by key; `progress` is told of new ones."""
        submitted, self._pending = self._pending, PendingVerdicts()
        return self._wait(submitted, progress)

    def verdicts(self, pairs: Sequence[tuple[str, Row]]) -> list[Verdict]:
        """The verdicts on (response, row) pairs, in order. What was submitted before is left for `collect`."""
        asked = PendingVerdicts()
        for index, (response, row) in enumerate(pairs):
            self._submit(asked, index, response, row)
        found = self._wait(asked)
        return [found[index] for index in range(len(pairs))]

    def graded(self) -> bool | None:
        """Whether rewards are more than correct and incorrect; None if a user's function does not say it."""
        if self.verifier.graded is not None:
            return self.verifier.graded
        with self._changed:
            self._changed.wait_for(lambda: self._loaded or self._failure is not None)
            if not self._loaded:
                assert self._failure is not None
                raise self._failure
            return self._declared

    def close(self) -> None:
        """Kill the workers. Responses that are not verified yet get no verdict."""
        with self._changed:
            self._closed = True
            self._failure = self._failure or RuntimeError("the verification pool is closed")
            workers = list(self._workers)
            self._changed.notify_all()
        for _ in self._threads:
            self._queue.put(None)
        for worker in workers:
            worker.kill()
        for thread in self._threads:
            thread.join()

    def _submit(self, destination: PendingVerdicts, key: Hashable, response: str, row: Row) -> None:
        verdict = self.verifier.cheap(response, row)
        if verdict is not None:
            destination.verdicts[key] = verdict
            return
        with self._changed:
            destination.pending += 1
            self._queue.put(Submission(destination, key, response, row))
            if self._queue.qsize() > self._idle:
                self._grow()

    def _grow(self) -> None:
        if len(self._threads) < self._limit and not self._closed:
            self._threads.append(threading.Thread(target=self._serve, name="sieverl-verify", daemon=True))
            self._threads[-1].start()

    def _wait(self, asked: PendingVerdicts, progress: Progress = unwatched) -> dict[Hashable, Verdict]:
        with self._changed:
            pending = asked.pending
            while not self._changed.wait_for(lambda: asked.pending == 0 or self._failure is not None, LOOK_S):
                if asked.pending != pending:
                    pending = asked.pending
                    progress("verifying")
            if asked.pending:
                assert self._failure is not None
                raise self._failure
        return asked.verdicts

    def _finish(self, submission: Submission, verdict: Verdict) -> None:
        with self._changed:
            submission.destination.verdicts[submission.key] = verdict
            submission.destination.pending -= 1
            if submission.destination.pending == 0:
                self._changed.notify_all()

    def _serve(self) -> None:
        """What one thread does: run a worker and replace it when it is killed, until the pool closes."""
        worker: Worker | None = None
        try:
            worker = self._start()
            while batch := self._take():
                worker = self._verify(worker, batch)
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
        finally:
            if worker is not None:
                self._discard(worker)

    def _start(self) -> Worker:
        worker = Worker(self._environment, fork if self._forks else None)
        with self._changed:
            self._workers.add(worker)
            closed = self._closed
        if closed:
            worker.kill()
        try:
            worker.send(self._config, START_S)
            ready = worker.receive(START_S)
            if "started" in ready:
                if ready.get("limited") is False:
                    _say_unlimited()
                ready = self._loaded_by(worker)
        except GarbledError as error:
            self._discard(worker)
            raise UsageError(f"The verifier wrote to its worker's channel while it was loaded: {error}.") from error
        except (OSError, EOFError) as error:
            self._discard(worker)
            raise UsageError(
                f"The verifier's worker process does not start (exit code {worker.process.returncode}); "
                "its own message is printed above."
            ) from error
        if "fatal" in ready:
            self._discard(worker)
            raise fatal_error(ready)
        graded = ready.get("graded")
        with self._changed:
            self._loaded, self._declared = True, graded if isinstance(graded, bool) else None
            self._changed.notify_all()
        return worker

    def _loaded_by(self, worker: Worker) -> Message:
        """What a worker says when it has imported the user's file."""
        try:
            return worker.receive(LOAD_S)
        except TimeoutError as error:
            self._discard(worker)
            raise UsageError(
                f"The verifier {self._config['spec']} did not load in {LOAD_S:g} s; what its file does while it is "
                "imported must end: leave slow work to the first call."
            ) from error

    def _discard(self, worker: Worker) -> None:
        with self._changed:
            self._workers.discard(worker)
        worker.close()

    def _take(self) -> list[Submission]:
        """The next batch: a quarter of a worker's share, so that all end together. Empty when the pool closes."""
        with self._changed:
            self._idle += 1
        batch = [self._queue.get()]
        with self._changed:
            self._idle -= 1
        share = min(BATCH, self._queue.qsize() // (4 * self._limit))
        while len(batch) <= share and None not in batch:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return [] if None in batch else [submission for submission in batch if submission is not None]

    def _verify(self, worker: Worker, batch: Sequence[Submission]) -> Worker:
        """Verify a batch, each response under its own deadline. Returns the worker, or the one that replaced it."""
        left = deque(batch)
        while left:
            try:
                if not worker.is_idle():  # it died or wrote something before this response: not the response's fault
                    worker = self._replace(worker)
                worker.ask([(submission.response, submission.row) for submission in left], self._timeout_s)
                while left:
                    reply = worker.reply(self._timeout_s)
                    if "fatal" in reply:
                        raise fatal_error(reply)
                    verdict = self._verdict(reply)
                    self._finish(left.popleft(), verdict)
                    if "last" in reply:
                        worker = self._replace(worker)
                        break
            except TimeoutError:
                worker = self._replace(worker)
                with self._changed:
                    self.timeouts += 1
                self._finish(left.popleft(), TIMEOUT)
            except GarbledError as error:
                worker = self._replace(worker)
                self._finish(left.popleft(), self._verdict({"error": f"the worker's channel held {error}"}))
            except (OSError, EOFError) as error:
                if self._closed:
                    raise
                code = worker.exit_code()
                worker = self._replace(worker)
                self._finish(left.popleft(), self._verdict({"error": f"the worker died ({error}, exit code {code})"}))
        return worker

    def _replace(self, worker: Worker) -> Worker:
        self._discard(worker)
        with self._changed:
            self.restarts += 1
        return self._start()

    def _verdict(self, reply: Message) -> Verdict:
        """The verdict that a worker replied; what went wrong instead is counted. Raises GarbledError."""
        if "error" not in reply:
            return parse_verdict(reply)
        reason = storable(str(reply["error"]))
        with self._changed:
            self.errors += 1
            known = len(self.reasons) < REASONS or reason in self.reasons
            self.reasons[reason if known else "other errors"] += 1
        return REFUSED


@cache  # once in a process, however many workers there are
def _say_unlimited() -> None:
    print(
        "sieverl: this system cannot limit the memory of a process, so verify.memory_mb has no effect: a response "
        "whose check takes much memory can fill that of the machine",
        file=sys.stderr,
    )


def check_gold(pool: Pool, spec: Spec, rows: Sequence[Row]) -> list[tuple[Row, Verdict]]:
    """The rows whose own gold answer is not correct to the verifier, with its verdict.

    >>> from sieverl.verify import Pool
    >>> with Pool({"name": "number"}) as pool:
    ...     [row for row, verdict in check_gold(pool, {"name": "number"}, [{"answer": "4"}, {"answer": "four"}])]
    [{'answer': 'four'}]
    """
    gold = make_verifier(spec).gold
    pairs = [(response, row) for row in rows if (response := gold(row)) is not None]
    verdicts = pool.verdicts(pairs)
    return [(row, verdict) for (_, row), verdict in zip(pairs, verdicts, strict=True) if not verdict.correct]
