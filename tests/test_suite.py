"""What the test command runs in which ComfyUI, and what its last lines say."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import hosts
import pytest
import suite


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with three ComfyUI folders of different versions; the default one is the oldest."""
    monkeypatch.setattr(Path, "expanduser", lambda self: Path(str(self).replace("~", str(tmp_path))))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    for name, version in (("ComfyUI", "0.8.0"), ("ComfyUI-b", "0.33.0"), ("ComfyUI-c", "0.3.64")):
        folder = tmp_path / "comfy" / name
        folder.mkdir(parents=True)
        (folder / "main.py").touch()
        (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
    return tmp_path / "comfy"


def versions(**options: bool) -> list[str]:
    return [host.version for host in hosts.hosts(**options)]


def test_the_default_is_one_folder_and_for_the_test_command_those_beside_it(several: Path):
    assert versions() == ["0.8.0"]
    assert versions(siblings=True) == ["0.33.0", "0.8.0", "0.3.64"]


def test_comfyui_path_names_several(several: Path, monkeypatch: pytest.MonkeyPatch):
    """A failure means that 0.8 is taken for newer than 0.33, or a folder that is not there is not missed."""
    folders = [several / name for name in ("ComfyUI", "ComfyUI-b", "gone")]
    monkeypatch.setenv("COMFYUI_PATH", suite.os.pathsep.join(map(str, folders)))
    assert versions() == versions(siblings=True) == ["0.33.0", "0.8.0"]
    assert hosts.absent() == [several / "gone"]


def test_each_host_has_its_own_python_or_the_named_one(several: Path, monkeypatch: pytest.MonkeyPatch):
    own = several / "ComfyUI" / ".venv" / ("Scripts/python.exe" if suite.os.name == "nt" else "bin/python")
    own.parent.mkdir(parents=True)
    own.touch()
    assert [h.python for h in hosts.hosts(siblings=True)] == [Path(sys.executable), own, Path(sys.executable)]
    monkeypatch.setenv("COMFYUI_PYTHON", "/named")
    assert {h.python for h in hosts.hosts(siblings=True)} == {Path("/named")}


def test_a_python_that_cannot_run_the_host_is_one_sentence(several: Path, tmp_path: Path):
    """Two ways to be wrong: not there, and without what the host needs."""
    (host,) = hosts.hosts()
    gone = hosts.fault(hosts.Host(host.folder, tmp_path / "nothing", host.version))
    (host.folder / "torch.py").write_text("raise ModuleNotFoundError('no torch here')", encoding="utf-8")
    poor = hosts.fault(hosts.Host(host.folder, Path(sys.executable), host.version))
    for sentence, reason in ((gone, "nothing"), (poor, "ModuleNotFoundError: no torch here")):
        assert "\n" not in sentence and reason in sentence
        assert f"ComfyUI 0.8.0 in {host.folder} does not start with" in sentence
        assert sentence.endswith("set COMFYUI_PYTHON to the Python that it was installed for")


def test_a_run_in_a_host_that_cannot_start_ends_with_that_sentence(several: Path):
    """A failure means one long error for each of hundreds of tests."""
    folder = several / "ComfyUI"
    (folder / "torch.py").write_text("raise ModuleNotFoundError('no torch here')", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", str(Path(__file__).with_name("test_requirements.py")), "-q"]
    environment = {**suite.os.environ, "COMFYUI_PATH": str(folder), "COMFYUI_PYTHON": sys.executable}
    done = suite.subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert len(errors) == 1 and "set COMFYUI_PYTHON" in errors[0] and "no tests ran" in done.stdout


def test_the_newest_host_runs_all_and_the_older_ones_every_node(
    several: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hosts, "newer_frontend", lambda: ("1.99.0", Path("static")))
    steps = list(suite.steps(hosts.hosts(siblings=True), "python"))
    assert [(s.marker, Path(s.environment.get("COMFYUI_PATH", "")).name) for s in steps] == [
        ("not host", ""),
        ("host and not smoke and not newest_frontend", "ComfyUI-b"),
        ("browser", "ComfyUI-b"),
        ("smoke", "ComfyUI"),
        ("smoke", "ComfyUI-c"),
        ("bounds and not host", ""),
    ]
    assert steps[2].environment["COMFYUI_FRONTEND"] == "static" and "1.99.0" in steps[2].title
    monkeypatch.setattr(hosts, "newer_frontend", lambda: None)
    assert [s.marker for s in suite.steps(hosts.hosts(), "")] == ["not host", "host and not smoke"]


def test_the_last_lines_say_what_ran_and_what_did_not(several: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hosts, "newer_frontend", lambda: None)
    outcome = suite.Outcome("every node in ComfyUI 0.8.0", 0, "5 passed in 60.00s", "")
    said = list(suite.report([outcome], hosts.hosts(), "python"))
    assert said[0] == "every node in ComfyUI 0.8.0: 5 passed in 60.00s"
    assert "no newer frontend was tested" in said[-1]
    monkeypatch.setenv("COMFYUI_PATH", str(several / "gone"))
    said = list(suite.report([], hosts.hosts(), ""))
    assert said[0].startswith("the lower bounds of requirements.txt were not tested")
    assert said[1] == f"NO ComfyUI is in {several / 'gone'}"
    assert said[2].startswith("NO NODE WAS TESTED: set COMFYUI_PATH")


@pytest.mark.parametrize(("plain", "hosted"), [(0, 0), (1, 0), (0, 1)])
def test_a_failure_anywhere_fails_the_command(
    several: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, plain: int, hosted: int
):
    """A failure means that a red test in a ComfyUI, the last of several, is not seen."""
    results = {"not host": plain, "smoke": hosted}

    def run(step: suite.Step, *, show: bool) -> suite.Outcome:
        return suite.Outcome(step.title, results.get(step.marker, 0), "1 passed in 1.00s", "as printed\n")

    monkeypatch.setattr(suite, "run", run)
    assert suite.main([]) == max(plain, hosted)
    shown = capsys.readouterr().out
    assert shown.count("as printed") == 3 + (hosts.newer_frontend() is not None)
    assert "[tests] every node in ComfyUI 0.3.64: 1 passed in 1.00s" in shown.splitlines()


@pytest.mark.parametrize("status", [0, 3])
def test_a_step_is_a_real_process_whose_status_and_output_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
):
    (tmp_path / "pytest.py").write_text(
        "import os, sys\nprint(sys.argv[1:], os.environ['SEEN'])\n"
        f"print('===== 2 passed, 1 skipped in 0.50s =====')\nsys.exit({status})",
        encoding="utf-8",
    )
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    outcome = suite.run(suite.Step("t", sys.executable, "smoke", {"SEEN": "yes"}), show=False)
    assert (outcome.status, outcome.counts) == (status, "2 passed, 1 skipped in 0.50s")
    assert outcome.printed.startswith("['tests', '-m', 'smoke'] yes")


def test_a_step_waits_for_the_environment_that_is_being_made(tmp_path: Path):
    """A failure means that the tests of the lower bounds start in half an environment, or wait for ever."""
    python, lock = tmp_path / "env" / "bin" / "python", tmp_path / "env.lock"
    lock.touch()
    threading.Timer(0.5, lock.unlink).start()
    outcome = suite.run(suite.Step("t", str(python), "bounds", waits=True), show=False)
    assert not lock.exists() and outcome.status == 2 and str(python) in outcome.counts


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "== 1 failed, 626 passed, 3 skipped, 99 deselected in 700.12s (0:11:40) ==",
            "1 failed, 626 passed, 3 skipped",
        ),
        (
            "!!!! Interrupted: 1 error during collection !!!!",
            "!!!! Interrupted: 1 error during collection !!!!",
        ),
    ],
)
def test_counts_are_pytests_own(line: str, said: str):
    assert suite.counts(["collected 5 items\n", f"{line}\n"]).startswith(said)
    assert suite.counts([]) == "it printed nothing"
