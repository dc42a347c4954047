"""Ctrl-C while training: the step under way is finished first, so that what is kept is whole steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_TOLD = b"\nStopping after this step, to keep what is trained (once more: at once, without keeping it).\n"


class StoppedBetweenSteps(KeyboardInterrupt):
    """Ctrl-C, raised where no step is half done."""


@contextmanager
def held_back() -> Iterator[Callable[[], None]]:
    """Holds Ctrl-C back until the yielded function is called, which then raises StoppedBetweenSteps.

    A second Ctrl-C is an ordinary KeyboardInterrupt, raised at once. So is SIGTERM where it acts as Ctrl-C. Signals
    that somebody else handles or ignores stay theirs, and outside the main thread all do.
    """
    wished = False

    def hold(number: int, frame: object) -> None:
        nonlocal wished
        if wished:
            raise KeyboardInterrupt
        wished = True
        with suppress(OSError):
            os.write(2, _TOLD)  # a print could meet a half-done one of the progress bar

    def between_steps() -> None:
        if wished:
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
