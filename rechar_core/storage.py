"""Reads safetensors files whole or in part, and writes them atomically and reproducibly. Pickle is never loaded."""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FileError

if TYPE_CHECKING:
    from torch import Tensor

_PICKLE = "a PyTorch pickle, which can run code when it is opened; convert it to .safetensors first"
# First bytes -> what the file is and what to do.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", f"a zip archive, most likely {_PICKLE}"),
    *((bytes((0x80, protocol)), _PICKLE) for protocol in (2, 3, 4, 5)),
    (b"version https://git-lfs", "a Git LFS pointer and not the weights; download the real file"),
    (b"<", "a web page, so the download did not work; download the file again"),
    (b"GGUF", "a GGUF file; give the .safetensors version"),
    (b"\x89PNG", "a picture; give a .safetensors file"),
    (b"\xff\xd8\xff", "a picture; give a .safetensors file"),
)
_PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A safetensors reader (`safe_open`) for `path`. Raises FileError; the message says what the file is instead."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    _check_exists(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as reader:
            yield reader
    except SafetensorError as error:
        raise FileError(
            _diagnosis(path) or f"'{path}' is damaged ({error}); download or save it again."
        ) from error
    except OSError as error:
        raise FileError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (dtype and shape as stored, on the CPU, not tied to the file) and the metadata of a file.

    Raises FileError if it is missing, damaged or not safetensors.
    """
    with opened(path) as reader:
        # A memory-mapped tensor would keep the file locked on Windows, hence clone().
        tensors = {key: reader.get_tensor(key).clone() for key in reader.keys()}  # noqa: SIM118
        return tensors, dict(reader.metadata() or {})


def write_state(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: str | os.PathLike[str]
) -> Path:
    """Writes tensors and metadata to `path` completely or not at all; the same content gives the same bytes.

    Raises FileError if it cannot be written; an existing file is then left as it was.
    """
    table, body = packed(tensors)
    return write_bytes((header(table, metadata), body), path)


def packed(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], memoryview]:
    """The tensors of a safetensors file: its table (key -> dtype, shape, offsets) and their bytes."""
    from safetensors.torch import save

    data = save(_separate(tensors))
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]


def header(table: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file, with metadata in sorted order (safetensors itself writes a random one)."""
    if metadata:
        # A lone surrogate (half an emoji, from a damaged prompt) is not UTF-8, and the file could not be read again.
        clean = {k: v.encode("utf-8", "replace").decode("utf-8") for k, v in sorted(metadata.items())}
        table = {"__metadata__": clean, **table}
    text = json.dumps(table, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_bytes(pieces: tuple[bytes | memoryview, ...], path: str | os.PathLike[str]) -> Path:
    """Writes the pieces to `path` through a temporary file in the same folder. Raises FileError.

    Temporary files that killed processes of this machine left in the folder are deleted.
    """
    path = Path(path)
    make_folder(path.parent)
    for left in path.parent.glob(".rechar *.tmp"):
        if _left_over(left.name):
            with suppress(OSError):
                left.unlink()
    temporary = path.parent / f".rechar {socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}.tmp"
    _being_written.add(temporary.name)
    try:
        with open(temporary, "xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"'{path}' cannot be written: {error.strerror or error}.") from error
    finally:
        # After os.replace it no longer exists; after an error or Ctrl-C it may be incomplete.
        with suppress(OSError):
            temporary.unlink()
        _being_written.discard(temporary.name)
    return path


_being_written: set[str] = set()  # the names of this process's temporary files


def _left_over(temporary: str) -> bool:
    """Whether nobody writes this temporary file any more; False for files of other machines, as on a network drive."""
    import psutil

    host, _, number = temporary.removeprefix(".rechar ").rpartition(" ")[0].rpartition(" ")
    if host != socket.gethostname() or not number.isdigit():
        return False
    if int(number) == os.getpid():  # in a container every process may have the number of the one before
        return temporary not in _being_written
    return not psutil.pid_exists(int(number))


def make_folder(path: Path) -> None:
    """Creates the folder and its parents if they are missing. Raises FileError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"'{path}' cannot be a folder to write into: {error.strerror or error}; choose another."
        ) from error


def drop_oldest(folder: Path, most: int) -> None:
    """Deletes the least recently used files of a folder until at most `most` bytes are left."""
    found, total = [], 0
    for file in folder.iterdir():
        with suppress(OSError):  # gone meanwhile
            if file.is_file():
                found.append((file.stat(), file))
    for about, file in sorted(found, key=lambda each: -each[0].st_mtime):
        total += about.st_size
        if total > most:
            with suppress(OSError):  # in use, on Windows; deleted next time
                file.unlink()


def file_to_write(path: Path, suffix: str = "") -> Path:
    """`path` with `suffix` added if it is missing; creates its folder. Call it before long work.

    Raises FileError if it is a folder, or its folder cannot be created.
    """
    if path.is_dir():
        raise FileError(f"'{path}' is a folder; give the name of the file to write in it.")
    if not path.name.lower().endswith(suffix):
        path = path.with_name(path.name + suffix)
    make_folder(path.parent)
    return path


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors needs them: on the CPU, contiguous, without shared memory."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        result[key] = tensor
    return result


def _check_exists(path: Path) -> None:
    if path.is_dir():
        raise FileError(f"'{path}' is a folder; give a .safetensors file.")
    if not path.exists():
        raise FileError(f"There is no file '{path}'; check its name and folder.")


def _diagnosis(path: Path) -> str | None:
    """Why safetensors could not read a file, judged by its first bytes and its length; None if unknown."""
    size = path.stat().st_size
    if size == 0:
        return f"'{path}' is empty; download or save it again."
    with open(path, "rb") as file:
        start = file.read(64)
    what = next((what for magic, what in _MAGIC if start.startswith(magic)), None)
    if what is None and path.suffix.lower() in _PICKLE_SUFFIXES:
        what = _PICKLE
    if what is not None:
        return f"'{path}' is {what}."
    if start[8:9] == b"{":
        return f"'{path}' is cut short ({size} bytes are there) or damaged; download or save it again."
    return f"'{path}' is not a safetensors file; give one saved as .safetensors."
