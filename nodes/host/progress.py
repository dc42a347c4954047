"""Progress, previews and cancel, as the host shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


def throw_if_cancelled() -> None:
    """Raises the host's interrupt if the user cancelled."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()


def say(text: str) -> None:
    """Shows on the running node and in the log what is being done. Raises the host's interrupt if it was cancelled."""
    import logging

    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    throw_if_cancelled()
    logging.getLogger(__name__).info("ReChar: %s", text)
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context and server:
        server.send_progress_text(text, context.node_id)


class Progress:
    """A node's progress bar of `total` parts. Each call raises the host's interrupt if the user cancelled."""

    def __init__(self, total: int):
        import comfy.utils

        self.total, self.done = total, 0
        self.bar = comfy.utils.ProgressBar(total)

    def show(self, step: int, preview: Image | None = None) -> None:
        """Step `step` of the total is done; a preview picture may go with it."""
        throw_if_cancelled()
        self.done = step
        self.bar.update_absolute(step, self.total, preview and ("JPEG", preview, 512))

    def within(self, step: int, steps: int, preview: Any = None) -> None:
        """Step `step` of `steps` of the next part is done. preview: as the host's own previewer makes it, or None."""
        throw_if_cancelled()
        self.bar.update_absolute(self.done * steps + step, self.total * steps, preview)
