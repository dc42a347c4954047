"""Ctrl-C while training: the current step is finished first, so that only whole steps are saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_MESSAGE = b"\nStopping after this step, to keep what is trained (once more: at once, without keeping it).\n"


class StoppedBetweenSteps(KeyboardInterrupt):
    """Ctrl-C, raised where no step is half done."""


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Delays Ctrl-C until the yielded function is called, which then raises StoppedBetweenSteps.

    A second Ctrl-C is an ordinary KeyboardInterrupt, raised at once. SIGTERM is treated the same where it acts as
    Ctrl-C. Signals that other code handles or ignores are left alone; outside the main thread all are.
    """
    requested = False

    def hold(number: int, frame: object) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True
        with suppress(OSError):
            os.write(2, _MESSAGE)  # a print could meet a half-done one of the progress bar

    def between_steps() -> None:
        if requested:
            raise StoppedBetweenSteps

    with _handled(hold):
        yield between_steps
    between_steps()


@contextmanager
def _handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    known = [signal.SIGINT, signal.SIGTERM] if main else []
    ours = [number for number in known if signal.getsignal(number) is signal.default_int_handler]
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.default_int_handler)
