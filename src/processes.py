"""Worker processes: when they can be started, and how they end with the process that started them.

A command that is stopped ends its workers. A command that is killed cannot: each worker therefore watches its parent.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

WATCH = 1.0  # seconds between two looks at the parent
GRACE = 5.0  # seconds that a stopped command has to exit


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, raised in the main thread as Python itself raises KeyboardInterrupt for Ctrl-C."""

    signal = signal.SIGTERM


def run_command(main: Callable[[], int]) -> NoReturn:
    """Runs a command's `main` and exits with the status that it returns.

    On Ctrl-C, SIGTERM or SIGHUP, the command cleans up, its worker processes end, and the status is 128 + the signal's
    number. A signal that is ignored already, such as SIGHUP under nohup, stays ignored.

    Args:
        main: Takes no arguments and returns the exit status. If it adds a text to a KeyboardInterrupt, that is printed.
    """
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt as stop:
        with contextlib.suppress(OSError, ValueError):  # the terminal may be closed
            print(f"\n{stop if stop.args else 'stopped'}", file=sys.stderr, flush=True)
        end_children()
        number = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        late = threading.Timer(GRACE, os._exit, [128 + number])  # should a library wait for its threads
        late.daemon = True
        late.start()
        sys.exit(128 + number)


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
    stopped = Stopped()
    stopped.signal = signal.Signals(number)
    raise stopped


def end_children() -> None:
    """Ends the worker processes of this process at once, whatever they are doing."""
    for process in multiprocessing.active_children():
        process.terminate()


def can_have_children() -> bool:
    """Whether this process may start worker processes; Python forbids it to workers of `multiprocessing.Pool` and Celery."""
    return not multiprocessing.current_process().daemon


def end_with_parent(parent: int) -> None:
    """In a worker process: ends it within a few seconds of its parent's end, however that comes.

    A thread polls, because the kernel's own signal for this (Linux only) comes when the parent's *thread* ends.

    Args:
        parent: Process id of the parent. In the parent itself, where work runs without workers, this does nothing.
    """
    watching = any(thread.name == end_with_parent.__name__ for thread in threading.enumerate())
    if os.getpid() != parent and not watching:
        threading.Thread(target=_watch, args=(parent,), name=end_with_parent.__name__, daemon=True).start()


def _watch(parent: int) -> None:
    if sys.platform == "win32":  # where a process keeps the id of a parent that has ended
        if process := multiprocessing.parent_process():
            process.join()
            os._exit(1)
        return
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)
