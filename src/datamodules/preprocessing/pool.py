"""Work in parallel processes that may crash: a decoder that dies on a damaged file must not take the run with it."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_stop: Event | None = None  # in a worker: set when the run ends early


class StoppedError(Exception):
    """The run ends early: the work at hand is to be undone, not finished."""


class CrashedError(Exception):
    """The process that worked on an item died (killed for its memory, or a fault in native code)."""


def check_stop() -> None:
    """Raise StoppedError in a worker whose run is ending. Long work calls this now and then."""
    if _stop is not None and _stop.is_set():
        raise StoppedError


def map_unordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result | CrashedError]]:
    """Each item with `function(item)`, as they are finished; with CrashedError where the process died on it.

    An exception of `function` ends the run: the other workers are asked to stop (`check_stop`) before it is raised here.

    Args:
        function: runs in fresh processes, so that it and the items have to be picklable.
        items: drawn as workers become free.
        workers: number of processes; 0 works in this one, without protection from crashes.
    """
    if workers == 0:
        yield from ((item, function(item)) for item in items)
        return
    queue = iter(items)
    suspects: deque[Item] = deque()
    while True:
        yield from _run(function, queue, workers, suspects)
        if not suspects:
            return
        # Which of the items at work crashed their process is not known: each one alone tells.
        while suspects:
            item = suspects.popleft()
            crashed: deque[Item] = deque()
            yield from _run(function, iter([item]), 1, crashed)
            if crashed:
                yield item, CrashedError()


def _run(
    function: Callable[[Item], Result], items: Iterator[Item], workers: int, suspects: deque[Item]
) -> Iterator[tuple[Item, Result]]:
    """Results until the items or the pool are at an end; `suspects` receives what was at work when the pool broke."""
    context = multiprocessing.get_context("spawn")  # forked children inherit decoders and locks in any state
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(stop,))
    running: dict[Future[Result], Item] = {}
    try:
        while True:
            for item in items:
                running[pool.submit(function, item)] = item
                if len(running) == workers:
                    break
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                suspects.extend(running.values())
                return
            for future in done:
                item = running.pop(future)
                yield item, future.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(stop: Event) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then sets `stop`
    os.nice(1)  # the parent and the user's other programs stay responsive
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End a worker, at work or idle, whose run was killed.

    Nothing is undone: nobody is left to hold the store, and another run may be writing it already.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
