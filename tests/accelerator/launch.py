"""A ComfyUI server on the simulated card: `python launch.py plain|dynamic LIMIT main.py [options]` in a host's folder.

LIMIT: of the card's memory in bytes; 0 for none. As with tests/attached.py, the server does not outlive its starter.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

TESTS = str(Path(__file__).parents[1])


def main() -> None:
    kind, limit, *command = sys.argv[1:]
    script = Path(command[0]).resolve()
    sys.argv[:] = [str(script), *command[1:], *([] if kind == "dynamic" else plain(script.parent))]
    sys.path[0] = str(script.parent)
    sys.path.append(TESTS)  # behind the host's modules, one of which is called server
    import attached

    threading.Thread(target=attached.end_with_starter, daemon=True).start()
    from accelerator import host

    host.prepare(kind == "dynamic", int(limit) or None)
    logging.getLogger().addHandler(
        logging.NullHandler()
    )  # else what is said before main.py sets it up adds one
    import comfy.options

    comfy.options.enable_args_parsing()
    host.finish()
    attached.runpy.run_path(str(script), run_name="__main__")


def plain(folder: Path) -> list[str]:
    """The option that old hosts do not know, as they do not know what it turns off."""
    known = "--disable-dynamic-vram" in (folder / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    return ["--disable-dynamic-vram"] if known else []


if __name__ == "__main__":
    main()
