"""`python attached.py SCRIPT [arguments]`: runs a script that does not outlive its starter, on any system.

The starter gives it one end of a pipe as stdin and keeps the other. However the starter ends, killed too, the system
closes its end; then this process ends at once. tests/server.py starts ComfyUI so.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from pathlib import Path


def end_with_starter() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    script = Path(sys.argv[1]).resolve()
    sys.argv[:] = [str(script), *sys.argv[2:]]
    sys.path[0] = str(script.parent)
    runpy.run_path(str(script), run_name="__main__")
