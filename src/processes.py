"""Worker processes that end with the command that started them, even if that command is killed."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from joblib.externals.loky import ProcessPoolExecutor

POLL_INTERVAL = 1.0  # seconds between two checks of the parent


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command and exits with the status that it returns.

    A ValueError or OSError is printed as one sentence, with status 2. On Ctrl-C, SIGTERM or SIGHUP, `main` gets a
    KeyboardInterrupt, worker processes end, and the status is 128 plus the signal's number. If `main` replaces the text of
    the exception (`interrupt.args = ("…",)`), this text is printed instead of "stopped". A signal that the caller ignores, as
    under nohup, stays ignored.
    """
    received = signal.SIGINT

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        with contextlib.suppress(OSError, ValueError):  # the terminal may be closed
            print(f"\n{interrupt if interrupt.args else 'stopped'}", file=sys.stderr, flush=True)
        end_children()
        sys.exit(128 + received)


def end_children() -> None:
    """Ends the worker processes of this process at once."""
    for process in multiprocessing.active_children():
        process.terminate()


def can_start_processes() -> bool:
    """Returns whether this process may start workers. Python forbids it to workers of `multiprocessing.Pool` and Celery."""
    return not multiprocessing.current_process().daemon


@contextlib.contextmanager
def worker_pool(workers: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Yields a pool of worker processes, by default one per core, and ends them at once at the end."""
    pool = ProcessPoolExecutor(workers, initializer=end_with_parent, initargs=(os.getpid(),))
    try:
        yield pool
    finally:
        pool.shutdown(kill_workers=True)


def end_with_parent(parent: int) -> None:
    """Makes a worker process exit within seconds of its parent's end; `parent` is the parent's process id."""
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: int) -> None:
    if sys.platform == "win32":  # where os.getppid keeps the id of a parent that has ended
        if process := multiprocessing.parent_process():
            process.join()
            os._exit(1)
        return
    while os.getppid() == parent:  # polling, because Linux's PR_SET_PDEATHSIG fires when the parent's thread ends
        time.sleep(POLL_INTERVAL)
    os._exit(1)
