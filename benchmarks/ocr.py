"""Whether Tesseract reads a picture as its character: a measure of the quality benchmark where it is installed.

Debian and Ubuntu: apt install tesseract-ocr tesseract-ocr-{chi-tra,kor,ara,hin}. Other systems: its own download page.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable

from PIL import Image

from benchmarks.metrics import GLYPHS
from rechar_core.errors import FileError

LANGUAGES = {"han": "chi_tra", "hangul": "kor", "arabic": "ara", "devanagari": "hin", "latin": "eng"}
LANGUAGES |= {"kanji": "jpn", "hiragana": "jpn", "capital": "eng"}
_SIDE = 96  # pixels: letters of some 60 are what its networks learnt on
_WORD = "8"  # page mode: one word; its mode for one character has no networks behind it for most scripts


class Reader:
    """Tesseract with the languages of some scripts. Raises FileError, saying what to install."""

    def __init__(self, scripts: Iterable[str]):
        found = shutil.which("tesseract")
        if found is None:
            raise FileError("--ocr needs Tesseract on the PATH (apt install tesseract-ocr).")
        listed = subprocess.run([found, "--list-langs"], capture_output=True, text=True, check=True).stdout
        if missing := sorted({LANGUAGES[script] for script in scripts} - set(listed.split())):
            names = " ".join(f"tesseract-ocr-{name.replace('_', '-')}" for name in missing)
            raise FileError(f"Tesseract lacks {', '.join(missing)} (apt install {names}).")
        self.program = found

    def text(self, picture: Image.Image, script: str) -> str:
        """What it reads in one picture."""
        buffer = io.BytesIO()
        picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).save(buffer, "PNG")
        command = [self.program, "stdin", "stdout", "-l", LANGUAGES[script], "--psm", _WORD, "--dpi", "300"]
        done = subprocess.run(
            command,
            input=buffer.getvalue(),
            capture_output=True,
            check=True,
            env=os.environ | {"OMP_THREAD_LIMIT": "1"},
        )
        return done.stdout.decode("utf-8").strip()

    def __call__(self, picture: Image.Image, script: str) -> float:
        """1 if the character is among what is read, else 0."""
        return float(holds(self.text(picture, script), GLYPHS[script][0]))


def holds(text: str, character: str) -> bool:
    """Whether the character stands in the text by itself: with a mark on it (क़) it is another one."""
    ends = (place + 1 for place, found in enumerate(text) if found == character)
    return any(end == len(text) or not unicodedata.category(text[end]).startswith("M") for end in ends)
