"""The two commands of README.md, on Linux, Windows and macOS, with nothing but Python installed.

    python run.py demo [--output DIR]     the whole method on the tiny model that ships here: a contact sheet
    python run.py test [pytest options]   lint, types and all tests; with options: pytest alone, with them

Each makes its own environment in `.venv` beside this file, the first time only; all tests make one more, in
`.venv-bounds`, with the oldest packages that requirements.txt allows. `--here` uses the running Python as it
is instead, with what is installed in it.

On Linux pip takes PyTorch's large CUDA build; to have the small CPU build, set PIP_EXTRA_INDEX_URL to the
index that PyTorch's own install page names for "CPU".
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 10), (3, 13)
KINDS = {
    "demo": ["requirements.txt"],
    "test": ["requirements.txt", "tests/requirements.txt"],
    "bounds": ["tests/bounds.txt"],  # exactly the lower bounds of requirements.txt
}
BOUNDS_EXIST = ((3, 10), (3, 11))  # for these versions of Python
CONSTRAINTS = "tests/constraints.txt"
STOPPED = 130  # the status of what Ctrl-C ended
NOT_NEEDED = ("bitsandbytes",)  # a CUDA optimizer: neither command uses it


class RunError(Exception):
    """What stopped the command, in one sentence for the person who typed it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands; the exit status says whether all of it succeeded."""
    options, rest = parser().parse_known_args(arguments)
    try:
        if options.command == "demo" and rest:
            raise RunError(f"demo knows no {' '.join(rest)}; 'run.py demo --help' shows all options")
        check_python(sys.version_info[:2])
        if options.command == "test" and not rest:
            return test_all(options.here)
        python = Path(sys.executable) if options.here else ready_environment(ROOT / ".venv", options.command)
        return demo(python, options) if options.command == "demo" else test(python, rest)
    except RunError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("stopped")
        return STOPPED


def parser() -> argparse.ArgumentParser:
    """The command line; what it does not know is pytest's."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--here", action="store_true", help="use the running Python instead of .venv")
    top = argparse.ArgumentParser(prog="run.py", description="ReChar: see the demo, or run the tests.")
    commands = top.add_subparsers(dest="command", required=True)
    show = commands.add_parser("demo", parents=[common], allow_abbrev=False, help="make the contact sheet")
    show.add_argument("--output", type=Path, default=ROOT / "demo-out", help="folder for the pictures")
    show.add_argument("--seed", type=int, default=0, help="of trainings and pictures")
    commands.add_parser("test", parents=[common], allow_abbrev=False, help="run lint, types and all tests")
    return top


def check_python(version: tuple[int, ...]) -> None:
    """Refuse a Python that is too old; warn of one that nobody has tried.

    Raises: RunError.
    """
    name = ".".join(map(str, version))
    if version < OLDEST:
        raise RunError(f"Python {name} is too old: install one of 3.10 to 3.13 and run it with that")
    if version > NEWEST:
        say(f"note: Python {name} is newer than the versions tested (3.10 to 3.13); trying all the same")


def say(line: str) -> None:
    """One line of progress, plain ASCII, at once."""
    print(f"[run] {line}", flush=True)


# The environment


def ready_environment(folder: Path, kind: str) -> Path:
    """The Python of an environment in `folder` that holds what `kind` needs, made or completed if necessary.

    The marker is written last and removed before any change: an environment without it is never trusted.
    Raises: RunError.
    """
    python, marker, wanted = python_of(folder), folder / "rechar-ready.txt", fingerprint(kind)
    recorded = marker.read_text(encoding="utf-8").split() if marker.is_file() else []
    usable = recorded[:1] == [wanted] and works(python)
    if usable and (kind in recorded or "test" in recorded):  # the tests need all that the demo needs
        return python
    with alone(folder.with_name(f"{folder.name}.lock")):
        if not usable:
            create(folder)
            recorded = [wanted]
        marker.unlink(missing_ok=True)
        install(python, kind)
        if not works(python):
            raise RunError(f"{folder} was changed while it was made: delete it and run this again")
        marker.write_text("\n".join([*recorded, kind]) + "\n", encoding="utf-8")
    return python


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """A lock: two processes that make the environment at once would break it. Raises: RunError if it is taken."""
    try:
        lock.touch(exist_ok=False)
    except FileExistsError:
        raise RunError(
            f"another run.py is making the environment; wait for it, or delete {lock} if none is"
        ) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def python_of(folder: Path) -> Path:
    """Where an environment keeps its interpreter on this system."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def fingerprint(kind: str) -> str:
    """A hash of all that decides what is installed: the requirement files and the running Python.

    The demo and the tests share an environment.
    """
    digest = hashlib.sha256(repr((sys.version_info[:3], sys.base_prefix)).encode())
    for name in KINDS["bounds"] if kind == "bounds" else (*KINDS["test"], CONSTRAINTS):
        digest.update((ROOT / name).read_text(encoding="utf-8").encode())
    return digest.hexdigest()


def works(python: Path) -> bool:
    """Whether the interpreter is there, starts (a moved or updated base Python breaks it) and is the environment's.

    Without its pyvenv.cfg it would be the base Python itself, and install there.
    """
    program = "import sys, pip; sys.exit(sys.prefix == sys.base_prefix)"
    try:
        return subprocess.run([python, "-c", program], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def create(folder: Path) -> None:
    """Make a new, bare environment, in the place of any old one.

    Raises: RunError.
    """
    if Path(sys.prefix).resolve() == folder.resolve():
        raise RunError(
            f"{folder.name} must be made anew and is in use: run this with the Python outside of it"
        )
    say(f"making an environment in {folder.name}")
    try:
        if folder.exists():
            shutil.rmtree(folder)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be replaced ({error}): close what uses it and try again") from error
    except subprocess.CalledProcessError as error:
        raise RunError(
            "Python's venv module failed: on Debian and Ubuntu run 'apt install python3-venv' and try again"
        ) from error


def install(python: Path, kind: str) -> None:
    """Install what `kind` needs, at the versions of the constraints file (the bounds are versions themselves).

    Raises: RunError.
    """
    wanted = [line for name in KINDS[kind] for line in requirements(ROOT / name)]
    say(f"installing {len(wanted)} packages and what they need; the first time this takes some minutes")
    if sys.platform == "linux" and not shutil.which("nvidia-smi") and "PIP_EXTRA_INDEX_URL" not in os.environ:
        say("note: no NVIDIA driver is found; the top of run.py says how to get PyTorch's small CPU build")
    # Python compiles what is used; compiling all takes half as long again
    options = ["--disable-pip-version-check", "--progress-bar", "off", "--no-compile"]
    if kind != "bounds":
        options += ["--constraint", str(ROOT / CONSTRAINTS)]
    if subprocess.run([python, "-m", "pip", "install", *options, *wanted], check=False).returncode != 0:
        raise RunError("pip could not install the packages; its own message is above (network, disk, proxy?)")


def requirements(file: Path) -> list[str]:
    """The requirements that a file lists, without comments and without what the two commands never use."""
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(NOT_NEEDED)]


# The commands


def demo(python: Path, options: argparse.Namespace) -> int:
    """Run the demo of rechar_core into the folder `output`."""
    settings = ["--output", options.output.resolve(), "--seed", str(options.seed)]
    status = call([python, "-m", "rechar_core", "demo", *settings], ROOT)
    if status == 0:
        say(f"your own pictures: {python} -m rechar_core --help")
    return status


def test(python: Path, rest: Sequence[str]) -> int:
    """Run pytest with these options and paths."""
    say("tests")
    named = any((ROOT / word.split("::")[0]).exists() for word in rest if not word.startswith("-"))
    return call([python, "-m", "pytest", *([] if named else ["tests"]), *rest], ROOT)


def test_all(here: bool) -> int:
    """Run lint, types and all tests, also in an environment with exactly the lower bounds where there can be one.

    That one is made meanwhile; the suite waits for it. here: make no environment. Raises: RunError.
    """
    if here:
        return checked(Path(sys.executable))
    if sys.version_info[:2] not in BOUNDS_EXIST:
        return checked(ready_environment(ROOT / ".venv", "test"))
    folder = ROOT / ".venv-bounds"
    with ThreadPoolExecutor(1) as beside:
        bounds = beside.submit(ready_environment, folder, "bounds")
        python = ready_environment(ROOT / ".venv", "test")
        if bounds.done():
            bounds.result()  # what went wrong, before the suite waits for it
        status = checked(python, "--bounds", python_of(folder))
        bounds.result()
    return status


def checked(python: Path, *options: str | Path) -> int:
    """Lint and types, then the test suite with these options."""
    ruff: list[str | Path] = [python, "-m", "ruff"]
    checks = {
        "lint": lambda: call([*ruff, "check", "."], ROOT),
        "format": lambda: call([*ruff, "format", "--check", "."], ROOT),
        "types": lambda: types(python),
    }
    for name, check in checks.items():
        say(name)
        status = check()
        if status != 0:
            say(f"{name} failed: see above" if status != STOPPED else "stopped")
            return status
    return call([python, "tests/suite.py", *options], ROOT)


def types(python: Path) -> int:
    """Mypy on the shipped code, copied into a package with a plain name.

    The repository's root is a package that ComfyUI loads from a folder of any name; mypy resolves the
    relative imports from nodes/ to rechar_core/ only if that name is an identifier.
    """
    with tempfile.TemporaryDirectory() as folder:
        for file in (*ROOT.glob("*.py"), *ROOT.glob("nodes/**/*.py"), *ROOT.glob("rechar_core/**/*.py")):
            copy = Path(folder) / "rechar_pack" / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        command: list[str | Path] = [python, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
        return call([*command, "--cache-dir", ROOT / ".mypy_cache", "-p", "rechar_pack"], Path(folder))


def call(command: Sequence[str | Path], folder: Path) -> int:
    """Run a command in `folder`, with its output on the console; on Ctrl-C it may finish for up to 30 seconds."""
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(30)  # it got Ctrl-C from the console too, and saves its state
            finally:
                process.kill()
            return STOPPED


if __name__ == "__main__":
    sys.exit(main())
