"""Verification in worker processes that are killed and replaced when they overstep their time or memory."""

from __future__ import annotations

import queue
import threading
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sieverl.errors import DataError, UsageError
from sieverl.types import Row, Status, Verdict
from sieverl.verify.check import REFUSED
from sieverl.verify.process import START_S, GarbledError, Worker
from sieverl.verify.registry import describe

BATCH = 16
REASONS = 100  # kinds of errors that are told apart
TIMEOUT = Verdict(0.0, False, Status.VERIFIER_TIMEOUT)
FATAL = {"usage": UsageError, "data": DataError}


@dataclass
class PendingVerdicts:
    """The verdicts that one `collect` waits for."""

    verdicts: dict[Hashable, Verdict] = field(default_factory=dict)
    pending: int = 0


@dataclass(frozen=True)
class Task:
    """One response on its way to a worker."""

    basket: PendingVerdicts
    key: Hashable
    response: str
    row: Row


class Pool:
    r"""Scores responses while others are still being generated; a context manager.

    `submit` returns at once; what the cheap path of the verifier decides never leaves the process, the rest goes to
    `workers` processes, each response with `timeout_s` seconds and `memory_mb` of memory beyond the imports. What
    oversteps gets the status `verifier_timeout` or `verifier_error` and is counted; nothing it does stops the run. A
    verifier that cannot start at all is a UsageError.

    >>> with Pool({"name": "math"}) as pool:
    ...     [verdict.reward for verdict in pool.verdicts([(r"\boxed{4}", {"answer": "4"}), ("four", {"answer": "4"})])]
    [1.0, 0.0]
    """

    def __init__(
        self, spec: Mapping[str, Any], workers: int = 2, timeout_s: float = 5.0, memory_mb: int = 1024
    ) -> None:
        if workers < 1 or timeout_s <= 0 or memory_mb < 1:
            raise UsageError(
                f"verify.workers is {workers}, timeout_s {timeout_s}, memory_mb {memory_mb}; each must be above 0."
            )
        self.check = describe(spec)
        self.timeouts = self.errors = self.restarts = 0
        self.reasons: Counter[str] = Counter()
        self._config = {"spec": spec, "timeout_s": timeout_s, "memory_mb": memory_mb}
        self._limit, self._timeout_s = workers, timeout_s
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._basket = PendingVerdicts()
        self._threads: list[threading.Thread] = []
        self._workers: set[Worker] = set()
        self._idle = 0
        self._failure: BaseException | None = None
        self._closed = False
        self._ready: dict[str, Any] | None = None  # what a worker said of the verifier
        if not self.check.total:
            self._grow()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, key: Hashable, response: str, row: Row) -> None:
        """Begin to score a response; its verdict is under `key` in what the next `collect` returns."""
        self._submit(self._basket, key, response, row)

    def collect(self) -> dict[Hashable, Verdict]:
        """The verdicts of everything submitted since the last call; waits, but never longer than the limits allow."""
        basket, self._basket = self._basket, PendingVerdicts()
        return self._wait(basket)

    def verdicts(self, pairs: Sequence[tuple[str, Row]]) -> list[Verdict]:
        """The verdicts of (response, row) pairs, in order; what was submitted before stays for `collect`."""
        basket = PendingVerdicts()
        for index, (response, row) in enumerate(pairs):
            self._submit(basket, index, response, row)
        found = self._wait(basket)
        return [found[index] for index in range(len(pairs))]

    def graded(self) -> bool | None:
        """Whether rewards mean more than right and wrong; None if a user's function does not say so."""
        if self.check.graded is not None:
            return self.check.graded
        with self._changed:
            self._changed.wait_for(lambda: self._ready is not None or self._failure is not None)
            if self._ready is None:
                assert self._failure is not None
                raise self._failure
            return self._ready["graded"]

    def close(self) -> None:
        """Kill the workers; what is still being scored is lost."""
        with self._changed:
            self._closed = True
            self._failure = self._failure or RuntimeError("the verification pool is closed")
            workers = list(self._workers)
            self._changed.notify_all()
        for _ in self._threads:
            self._tasks.put(None)
        for worker in workers:
            worker.end()
        for thread in self._threads:
            thread.join()

    def _submit(self, basket: PendingVerdicts, key: Hashable, response: str, row: Row) -> None:
        verdict = self.check.cheap(response, row)
        if verdict is not None:
            basket.verdicts[key] = verdict
            return
        with self._changed:
            basket.pending += 1
            self._tasks.put(Task(basket, key, response, row))
            if self._tasks.qsize() > self._idle:
                self._grow()

    def _grow(self) -> None:
        if len(self._threads) < self._limit and not self._closed:
            self._threads.append(threading.Thread(target=self._serve, name="sieverl-verify", daemon=True))
            self._threads[-1].start()

    def _wait(self, basket: PendingVerdicts) -> dict[Hashable, Verdict]:
        with self._changed:
            self._changed.wait_for(lambda: basket.pending == 0 or self._failure is not None)
            if basket.pending:
                assert self._failure is not None
                raise self._failure
        return basket.verdicts

    def _finish(self, task: Task, verdict: Verdict) -> None:
        with self._changed:
            task.basket.verdicts[task.key] = verdict
            task.basket.pending -= 1
            if task.basket.pending == 0:
                self._changed.notify_all()

    def _serve(self) -> None:
        """One thread: starts a worker, feeds it and replaces it, until the pool closes."""
        worker: Worker | None = None
        try:
            worker = self._start()
            while batch := self._take():
                worker = self._score(worker, batch)
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
        finally:
            if worker is not None:
                self._discard(worker)

    def _start(self) -> Worker:
        worker = Worker()
        with self._changed:
            self._workers.add(worker)
            closed = self._closed
        if closed:
            worker.end()
        try:
            worker.send(self._config, START_S)
            ready = worker.receive(START_S)
        except GarbledError as error:
            self._discard(worker)
            raise UsageError(f"The verifier wrote to its worker's channel while it was loaded: {error}.") from error
        except (OSError, EOFError) as error:
            self._discard(worker)
            raise UsageError(
                f"The verifier's worker process does not start (exit code {worker.process.returncode}); "
                "its own message stands above."
            ) from error
        if "fatal" in ready:
            self._discard(worker)
            raise FATAL[ready["fatal"]](ready["message"])
        with self._changed:
            self._ready = ready
            self._changed.notify_all()
        return worker

    def _discard(self, worker: Worker) -> None:
        with self._changed:
            self._workers.discard(worker)
        worker.kill()

    def _take(self) -> list[Task]:
        """The next batch: a quarter of one worker's share, so that all end together; empty when the pool closes."""
        with self._changed:
            self._idle += 1
        batch = [self._tasks.get()]
        with self._changed:
            self._idle -= 1
        share = min(BATCH, self._tasks.qsize() // (4 * self._limit))
        while len(batch) <= share and None not in batch:
            try:
                batch.append(self._tasks.get_nowait())
            except queue.Empty:
                break
        return [] if None in batch else [task for task in batch if task is not None]

    def _score(self, worker: Worker, batch: Sequence[Task]) -> Worker:
        """Score a batch, one response at a time under its own deadline; returns the worker to go on with."""
        left = deque(batch)
        while left:
            try:
                if not worker.quiet():  # it died while it had nothing to do, or something writes: not this one's fault
                    worker = self._replace(worker)
                worker.ask([(task.response, task.row) for task in left], self._timeout_s)
                while left:
                    reply = worker.reply(self._timeout_s)
                    if "fatal" in reply:
                        raise FATAL[reply["fatal"]](reply["message"])
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

    def _verdict(self, reply: Mapping[str, Any]) -> Verdict:
        if "error" not in reply:
            try:
                reward, correct, status, parts = reply["verdict"]
                return Verdict(float(reward), bool(correct), Status(status), dict(parts))
            except (KeyError, TypeError, ValueError) as error:
                raise GarbledError(f"{str(reply)[:60]}, which is no verdict") from error
        with self._changed:
            self.errors += 1
            known = len(self.reasons) < REASONS or reply["error"] in self.reasons
            self.reasons[reply["error"] if known else "other errors"] += 1
        return REFUSED


def check_gold(pool: Pool, spec: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[Row, Verdict]]:
    """The rows whose own gold answer the verifier does not find right, with its verdict.

    >>> from sieverl.verify import Pool
    >>> with Pool({"name": "number"}) as pool:
    ...     [row for row, verdict in check_gold(pool, {"name": "number"}, [{"answer": "4"}, {"answer": "four"}])]
    [{'answer': 'four'}]
    """
    gold = describe(spec).gold
    tried = [(response, row) for row in rows if (response := gold(row)) is not None]
    verdicts = pool.verdicts(tried)
    return [(row, verdict) for (_, row), verdict in zip(tried, verdicts, strict=True) if not verdict.correct]
