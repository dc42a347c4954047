"""File names and paths that come from a graph, and files that killed processes left; no host is needed for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
import unhosted

from rechar_core import storage
from rechar_core.errors import FileError
from rechar_core.glyph import library

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def host() -> Any:
    """Of nodes/host: folders and saving; and how the pack's B-LoRA files are read."""
    with unhosted.pack() as module:
        parts = {name: module(f"nodes.host.{name}") for name in ("folders", "saving")}
        yield types.SimpleNamespace(**parts, read=module("rechar_core.lora.files").read)


@pytest.mark.parametrize("name", ["羅", "my glyph", "glyphs/羅 v2", "خط", "a.b", "console", "x\\y"])
def test_names_that_every_system_can_have(host: Any, tmp_path: Path, name: str):
    path = host.folders.inside(tmp_path, f"{name}.safetensors")
    assert path == tmp_path / name.replace("\\", "/")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "  ",
            "..",
            "../evil",
            "a/../../evil",
            "a/../b",
            "a//b",
            "/etc/x",
            "\\\\srv\\x",
            "a/",
            "C:x",
            "C:/x",
        ),
        *("con", "CON.txt", "a/aux/b", "nul .x", "lpt1", "com¹", "a/Prn"),
        *("a.", "a /b", "a/ b", "a\nb", "a\x7fb", "a\x00", "abc\u202egnp.exe", "a\u2066b", "a\ud800b"),
        *("a?", "a*b", 'a"b', "a|b", "x" * 201, "羅" * 67, "d/" + "x" * 300),
    ],
)
def test_names_that_some_system_cannot_have_are_one_sentence(host: Any, tmp_path: Path, name: str):
    """A failure means a file outside the folder, one that Windows cannot open, or one that shows another ending."""
    with pytest.raises(host.folders.FileError) as refused:
        host.folders.inside(tmp_path, name)
    said = str(refused.value)
    assert "cannot be a file name" in said and said.isprintable() and len(said) <= 400


@pytest.mark.parametrize(
    "name",
    [
        r"\\srv\a.ttf",
        "//srv/share/a.ttf",
        r"\/srv/share/a.ttf",
        r"/\srv\share\a.ttf",
        r"\\?\UNC\srv\s\a.ttf",
        "//./x.ttf",
    ],
)
def test_a_network_path_is_refused_whatever_its_slashes(monkeypatch, name: str):
    """A failure means that a graph makes Windows log in to a server of the graph's author."""
    assert PureWindowsPath(name).is_absolute() or PureWindowsPath(name).drive.startswith("\\\\")
    monkeypatch.setattr(Path, "is_file", lambda path: pytest.fail(f"{path} was looked at"))
    with pytest.raises(FileError, match="not the full path of a font file here"):
        library.find(name, {})


# Files that exist


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def saved(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Saves a pair with the name and the choice, in tmp_path; the names that Save B-LoRA gives back."""
    module = host.saving
    monkeypatch.setattr(module, "roots", lambda _: [tmp_path])
    blora = host.read(ROOT / "tests" / "data" / "blora_tiny" / "trained_lr5e-5.safetensors")
    return lambda name, *choice: module.save(name, {"structure": blora, "style": blora}, None, *choice)


def test_nothing_is_overwritten_unless_asked(host: Any, saved: Any, tmp_path: Path):
    """A failure means that a second training takes the place of the first without a word."""
    assert saved("luo") == ["luo_structure.safetensors", "luo_style.safetensors"]
    (tmp_path / "luo_style.safetensors").unlink()
    first = (tmp_path / "luo_structure.safetensors").read_bytes()
    assert saved("luo") == ["luo_2_structure.safetensors", "luo_2_style.safetensors"]
    assert saved("luo")[0] == "luo_3_structure.safetensors"
    (tmp_path / "luo_structure.safetensors").write_bytes(b"other")
    with pytest.raises(host.saving.FileError, match="'luo_structure.safetensors' is there already"):
        saved("luo", "error")
    assert (tmp_path / "luo_structure.safetensors").read_bytes() == b"other"
    assert saved("luo", "overwrite")[0] == "luo_structure.safetensors"
    assert (tmp_path / "luo_structure.safetensors").read_bytes() == first


def test_without_a_name_the_trigger_gives_one(host: Any):
    named = host.saving._name_of
    assert (
        named([types.SimpleNamespace(trigger=""), types.SimpleNamespace(trigger="A [v], 羅 خط!")])
        == "A_v_羅_خط"
    )
    assert (
        named([types.SimpleNamespace(trigger="")]) == named([types.SimpleNamespace(trigger="?!")]) == "b-lora"
    )


WRITES = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from rechar_core import storage
storage.os.replace = lambda *_: (print("writing", flush=True), time.sleep(60))
storage.write_bytes((b"half",), Path(sys.argv[2]) / "x")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path):
    """A failure means that a folder fills with hidden files of the size of a LoRA, or a living write is lost."""
    command = [sys.executable, "-c", WRITES, str(ROOT), str(tmp_path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdout.readline() == "writing\n"
    (tmp_path / ".rechar elsewhere 1 00.tmp").write_bytes(b"another machine's")
    assert len(names(tmp_path)) == 3
    writers[0].send_signal(signal.SIGKILL)
    writers[0].wait()
    storage.write_bytes((b"whole",), tmp_path / "y")
    left = names(tmp_path)
    assert len(left) == 3 and {"y", ".rechar elsewhere 1 00.tmp"} < left
    assert any(f" {writers[1].pid} " in name for name in left)
    writers[1].kill()
    writers[1].wait()
    (tmp_path / f".rechar {storage.socket.gethostname()} {os.getpid()} 00.tmp").write_bytes(b"in a container")
    storage.write_bytes((b"whole",), tmp_path / "y")
    assert names(tmp_path) == {"y", ".rechar elsewhere 1 00.tmp"}
