"""Installing the pack into a ComfyUI environment must leave what ComfyUI owns alone."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from server import ROOT, find_host

pytestmark = pytest.mark.host


def test_installing_changes_no_package_of_the_host(tmp_path: Path):
    """What ComfyUI-Manager would run, as a dry run: new packages may come, none that is there may change."""
    host, report = find_host(), tmp_path / "report.json"
    pip = [str(host.python), "-m", "pip", "--disable-pip-version-check"]
    listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True)
    there = {name(package["name"]) for package in json.loads(listed.stdout)}
    command = [
        *pip,
        "install",
        "--dry-run",
        "--quiet",
        "--report",
        str(report),
        "-r",
        str(ROOT / "requirements.txt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and re.search("ConnectionError|Temporary failure|from versions: none", done.stderr):
        pytest.skip(f"no package registry can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    new = {
        name(item["metadata"]["name"]) for item in json.loads(report.read_text(encoding="utf-8"))["install"]
    }
    assert not new & there, f"these would change: {new & there}"


def name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()
