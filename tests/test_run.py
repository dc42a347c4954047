"""run.py, the two commands: when the environment is made, kept, completed or thrown away; what is then run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import run

ROOT = Path(run.__file__).resolve().parent


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """run.py over a copy of the requirement files, making and installing only on paper."""
    (tmp_path / "tests").mkdir()
    for name in (*run.KINDS["test"], *run.KINDS["bounds"], run.CONSTRAINTS):
        shutil.copy(ROOT / name, tmp_path / name)
    events: list[str] = []
    state = {
        "root": tmp_path,
        "folder": tmp_path / ".venv",
        "events": events,
        "works": True,
        "breaks": 0,
        "interrupt": False,
    }

    def create(folder: Path) -> None:
        events.append("create")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def install(python: Path, kind: str) -> None:
        events.append(f"install {kind}")
        if state["interrupt"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "create", create)
    monkeypatch.setattr(run, "install", install)

    def works(python: Path) -> bool:
        state["breaks"] -= 1  # so many more times it does not
        return state["works"] and state["breaks"] < 0 and python.parent.parent.is_dir()

    monkeypatch.setattr(run, "works", works)
    return state


def done(world: dict, kind: str) -> list[str]:
    """What readying the environment for `kind` does."""
    world["events"].clear()
    run.ready_environment(world["folder"], kind)
    return list(world["events"])


def test_made_once_and_kept(world: dict) -> None:
    assert done(world, "demo") == ["create", "install demo"]
    assert done(world, "demo") == []


def test_completed_for_the_tests_and_then_good_for_both(world: dict) -> None:
    done(world, "demo")
    assert done(world, "test") == ["install test"]
    assert done(world, "test") == []
    assert done(world, "demo") == []


def test_the_tests_environment_serves_the_demo(world: dict) -> None:
    done(world, "test")
    assert done(world, "demo") == []


@pytest.mark.parametrize("name", ["requirements.txt", "tests/requirements.txt", "tests/constraints.txt"])
def test_remade_when_a_requirement_changes(world: dict, name: str) -> None:
    done(world, "demo")
    with (world["root"] / name).open("a", encoding="utf-8") as file:
        file.write("six\n")
    assert done(world, "demo") == ["create", "install demo"]


def test_remade_when_its_python_no_longer_starts(world: dict) -> None:
    done(world, "demo")
    world["breaks"] = 1
    assert done(world, "demo") == ["create", "install demo"]


@pytest.mark.parametrize("first", [None, "demo"])
def test_an_interrupted_installation_is_never_trusted(world: dict, first: str | None) -> None:
    if first:
        done(world, first)
    world["interrupt"] = True
    with pytest.raises(KeyboardInterrupt):
        done(world, "test")
    world["interrupt"] = False
    assert done(world, "test") == ["create", "install test"]


def test_a_folder_without_marker_is_never_trusted(world: dict) -> None:
    world["folder"].mkdir()
    assert done(world, "demo") == ["create", "install demo"]


def test_a_real_environment_is_made_over_a_broken_one(tmp_path: Path) -> None:
    folder = tmp_path / "env"
    folder.mkdir()
    (folder / "rubbish").touch()
    assert not run.works(run.python_of(folder))
    run.create(folder)
    assert run.works(run.python_of(folder))
    assert not (folder / "rubbish").exists()


def test_a_wreck_whose_python_is_the_base_python_is_not_trusted(tmp_path: Path) -> None:
    """A failure means that packages are installed into the system's Python."""
    folder = tmp_path / "env"
    run.create(folder)
    (folder / "pyvenv.cfg").unlink()
    assert not run.works(run.python_of(folder))


def test_two_at_once_do_not_make_one_environment(world: dict) -> None:
    """A failure means that the second deletes what the first is installing, and a wreck is left behind."""
    with run.alone(world["folder"].with_name(".venv.lock")):
        with pytest.raises(run.RunError, match="another run.py is making the environment"):
            done(world, "demo")
        assert world["events"] == []
    assert done(world, "demo") == ["create", "install demo"]


def test_an_environment_changed_under_its_installation_is_not_trusted(world: dict) -> None:
    world["works"] = False
    with pytest.raises(run.RunError, match="delete it and run this again"):
        done(world, "demo")
    world["works"] = True
    assert done(world, "demo") == ["create", "install demo"]


def test_an_environment_does_not_delete_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(run.RunError, match="is in use: run this with the Python outside of it"):
        run.create(tmp_path)
    assert tmp_path.is_dir()


# Python versions


def test_an_old_python_gets_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 7, "final", 0))
    assert run.main(["test"]) == 2
    assert (
        capsys.readouterr().out
        == "[run] error: Python 3.9 is too old: install one of 3.10 to 3.13 and run it with that\n"
    )


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12), (3, 13)])
def test_supported_pythons_pass_in_silence(version: tuple[int, int], capsys: pytest.CaptureFixture) -> None:
    run.check_python(version)
    assert capsys.readouterr().out == ""


def test_a_newer_python_is_tried(capsys: pytest.CaptureFixture) -> None:
    run.check_python((3, 15))
    assert "Python 3.15 is newer than the versions tested" in capsys.readouterr().out


def test_run_py_can_be_read_by_an_old_python() -> None:
    import ast

    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 7))


# What is run


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands run.py would start, without the Python and its -m; each succeeds."""
    made: list[list[str]] = []

    def keep(command: list, folder: Path) -> int:
        made.append([str(c) for c in command[1:] if c != "-m"])
        return 0

    monkeypatch.setattr(run, "call", keep)
    return made


def test_all_of_the_tests(calls: list[list[str]]) -> None:
    assert run.main(["test", "--here"]) == 0
    assert [call[0] for call in calls] == ["ruff", "ruff", "mypy", "tests/suite.py"]
    assert calls[-1] == ["tests/suite.py"]


@pytest.mark.parametrize(
    ("version", "there"), [((3, 10), True), ((3, 11), True), ((3, 12), False), ((3, 13), False)]
)
def test_the_lower_bounds_are_tested_where_there_are_such_packages(
    calls: list[list[str]],
    world: dict,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int],
    there: bool,
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 1, "final", 0))
    assert run.main(["test"]) == 0
    python = run.python_of(world["root"] / ".venv-bounds")
    assert calls[-1] == ["tests/suite.py", *(["--bounds", str(python)] if there else [])]
    assert ("install bounds" in world["events"]) is there


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-k", "keys", "-x"], ["pytest", "tests", "-k", "keys", "-x"]),
        (["tests/test_run.py"], ["pytest", "tests/test_run.py"]),
        (
            ["tests/test_run.py::test_all_of_the_tests", "-q"],
            ["pytest", "tests/test_run.py::test_all_of_the_tests", "-q"],
        ),
    ],
)
def test_some_of_the_tests(calls: list[list[str]], given: list[str], expected: list[str]) -> None:
    assert run.main(["test", "--here", *given]) == 0
    assert calls == [expected]


def test_lint_that_fails_ends_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(run, "call", lambda command, folder: 1)
    assert run.main(["test", "--here"]) == 1
    assert capsys.readouterr().out.splitlines() == ["[run] lint", "[run] lint failed: see above"]


def test_an_option_that_demo_does_not_know_is_refused_before_anything_is_made(
    calls: list[list[str]], capsys: pytest.CaptureFixture
) -> None:
    assert run.main(["demo", "--here", "--outpt", "x"]) == 2 and calls == []
    assert "demo knows no --outpt x; 'run.py demo --help'" in capsys.readouterr().out


def test_the_demo(calls: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run.main(["demo", "--here", "--output", str(tmp_path / "o"), "--seed", "3"]) == 0
    assert calls == [["rechar_core", "demo", "--output", str((tmp_path / "o").resolve()), "--seed", "3"]]
    assert f"{sys.executable} -m rechar_core --help" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl-C to a group of processes")
def test_ctrl_c_lets_the_command_keep_its_state_and_say_so() -> None:
    """A failure means that the command is killed while it saves, or that two messages say the same."""
    command = (
        "import time\ntry:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(1)\n    print('kept')"
    )
    starter = (
        f"import sys, run\nrun.demo = lambda *_: run.call([sys.executable, '-c', {command!r}], run.ROOT)\n"
        "sys.exit(run.main(['demo', '--here']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", starter],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a test run in the background ignores Ctrl-C, and its children would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stdout and child.stdout.readline() == "ready\n"
    os.killpg(child.pid, signal.SIGINT)
    assert child.communicate(timeout=30)[0] == "kept\n"
    assert child.returncode == run.STOPPED


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_what_is_attached_does_not_outlive_its_starter(tmp_path: Path, end: str) -> None:
    """A failure means that a test run that is killed leaves its ComfyUI server behind."""
    script = tmp_path / "server.py"
    script.write_text(
        "import sys, time\nprint(__name__, sys.argv[1], sys.path[0], flush=True)\ntime.sleep(60)",
        encoding="utf-8",
    )
    command = [sys.executable, str(ROOT / "tests" / "attached.py"), str(script), "--port"]
    starter = f"import subprocess\nsubprocess.Popen({command!r}, stdin=subprocess.PIPE).wait()"
    parent = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True)
    assert parent.stdout and parent.stdout.readline().split() == ["__main__", "--port", str(tmp_path)]
    getattr(parent, end)()
    assert parent.communicate(timeout=20)[0] == ""  # ends when the last writer, the attached one, is gone


# The house's papers


def test_requirements_leave_the_host_alone() -> None:
    lines = [
        line
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line[:1] != "#"
    ]
    plain = [line for line in lines if not line.startswith("bitsandbytes")]
    assert all(re.fullmatch(r"[a-z]+>=[\d.]+", line) for line in plain), lines
    names = [re.split(">=", line)[0] for line in lines]
    assert set(names) == {
        *(
            "accelerate",
            "bitsandbytes",
            "diffusers",
            "numpy",
            "pillow",
            "safetensors",
            "scipy",
            "torch",
            "transformers",
        ),
        "uharfbuzz",
    }


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", True),
        ("win32", "AMD64", True),
        ("darwin", "arm64", False),
        ("darwin", "x86_64", False),
        ("linux", "ppc64le", False),
        ("linux", "armv7l", False),
        ("win32", "ARM64", False),
    ],
)
def test_the_optional_optimizer_is_asked_for_only_where_there_are_wheels(
    system: str, machine: str, wanted: bool
) -> None:
    """A failure means that nothing at all can be installed on such a machine, for a package that it can do without."""
    from packaging.requirements import Requirement

    (line,) = (
        line
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line.startswith("bitsandbytes")
    )
    marker = Requirement(line).marker
    assert marker is not None
    assert marker.evaluate({"sys_platform": system, "platform_machine": machine}) is wanted


def test_the_bounds_environment_has_exactly_the_lower_bounds() -> None:
    """A failure means that requirements.txt promises a version that nobody tested."""

    def versions(file: str, sign: str) -> dict[str, str]:
        lines = [line for line in run.requirements(ROOT / file) if sign in line]
        return dict(line.split(sign) for line in lines)

    pins = versions("tests/bounds.txt", "==")
    assert pins == versions("requirements.txt", ">=") | {
        "peft": versions("tests/requirements.txt", ">=")["peft"]
    }


def test_the_two_commands_do_not_fetch_what_they_do_not_use() -> None:
    kept = run.requirements(ROOT / "requirements.txt")
    assert not any(line.startswith(("bitsandbytes", "#")) for line in kept)
    assert any(line.startswith("torch>=") for line in kept)


def test_hosted_checks_run_the_documented_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if line[:1] != "#"] == [
        "set -euo pipefail",
        'cd "$(dirname "$0")/.."',
        "python3 run.py test",
    ]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert re.findall(r"- run: (.*)", workflow) == ["python run.py test"]


def test_every_data_file_of_the_core_is_packed() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    data = [
        f
        for f in (ROOT / "rechar_core").rglob("*")
        if f.is_file() and f.suffix not in (".py", ".pyc", ".tmp")
    ]
    patterns = re.findall(r'"\*\*/([^"]+)"', project)
    assert data
    assert [f.name for f in data if not any(fnmatch(f.name, pattern) for pattern in patterns)] == []


def test_version_and_changelog_agree() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r'^name = "(.+)"\nversion = "(\d+\.\d+\.\d+)"$', project, re.MULTILINE)
    assert found
    assert "comfyui" not in found[1].lower()
    assert f"## [{found[2]}]" in changes
