"""Damaged LoRA files: every one must be read as a B-LoRA or refused in one sentence.

    python -m benchmarks.fuzz N [--seed 0]

Changes the keys, shapes, types, values, metadata or header bytes of sound LoRAs, N times. Prints how many were read and
how many refused, and fails with the first traceback. What was read must be usable: inspected, and written as kohya.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rechar_core.errors import ReCharError
from rechar_core.lora import files
from rechar_core.lora.blora import BLora, LoraPair
from rechar_core.lora.inspect import inspect
from rechar_core.lora.key_formats import KEY_FORMATS, PASSTHROUGH, WRITABLE, parse

ROOT = Path(__file__).resolve().parent.parent
_TYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "C64",
    "F4",
    "F8_E8M0",
    "X",
)
_NUMBERS = ("1" + "0" * 400, "NaN", "1e999", "-1", "true", "null", '"x"', "[" * 5000, "{}", "0.5")
_FIELDS = ("lora_adapter_metadata", "rechar.recipe", "ss_tag_frequency", "rechar.trigger", "modelspec.title")
_WORDS = (
    *PASSTHROUGH,
    "scalar",
    "alpha",
    "dora_scale",
    "lora_B.bias",
    "on_input",
    "\n",
    "\x00",
    "é" * 500,
    "",
)


def sound() -> list[bytes]:
    """The files of tests/data, and one of each format and kind."""
    found = [path.read_bytes() for path in sorted((ROOT / "tests" / "data").rglob("*lora*.safetensors"))]
    paths = [f"up_blocks.0.attentions.{i}.transformer_blocks.0.attn1.to_q" for i in range(2)]
    pair = LoraPair(torch.ones(2, 4), torch.ones(4, 2), 2.0)
    kinds: list[dict[str, torch.Tensor]] = [
        {f"hada_w{n}_{x}": torch.ones(*s) for n in (1, 2) for x, s in (("a", (4, 2)), ("b", (2, 4)))},
        {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(2, 2)},
        {"diff": torch.ones(4, 4), "diff_b": torch.ones(4)},
        {"oft_blocks": torch.zeros(2, 2, 2)},
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, parts in enumerate(({}, *kinds)):
            made = BLora({paths[0]: pair}, passthrough={paths[1]: parts} if parts else {})
            for format in WRITABLE if not parts else ("kohya",):
                path = files.write(made, Path(folder) / f"{number}{format}", format=format)
                found.append(path.read_bytes())
    return found


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to three changes of a file."""
    (length,) = struct.unpack("<Q", data[:8])
    table, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
    table.setdefault("__metadata__", {})
    if draw.random() < 0.8:  # another program's file: its hash is not ours
        table["__metadata__"].pop("rechar.version", None)
    for _ in range(draw.randint(1, 3)):
        draw.choice((_key, _key, _shape, _type, _metadata, _value))(table, body, draw)
    head = bytearray(json.dumps(table, ensure_ascii=draw.random() < 0.5).encode("utf-8", "replace"))
    if draw.random() < 0.15:
        for _ in range(draw.randint(1, 4)):
            head[draw.randrange(len(head))] = draw.randrange(256)
    whole = struct.pack("<Q", len(head)) + head + body
    return whole[: draw.randrange(len(whole))] if draw.random() < 0.03 else whole


def _one(table: dict[str, Any], draw: random.Random) -> str | None:
    names = [name for name in table if name != "__metadata__"]
    return draw.choice(names) if names else None


def _key(table: dict[str, Any], body: bytearray, draw: random.Random) -> None:
    """Another key: of another format, with another ending, without a letter, or gone."""
    key = _one(table, draw)
    if key is None:
        return
    entry, parsed, kind = table.pop(key), parse(key), draw.randrange(5)
    if kind == 0:
        return
    head, _, ending = key.rpartition(".")
    changed = [f"{head}.{draw.choice(_WORDS)}", key.replace(".", "_"), f"{draw.choice(_WORDS)}.{key}"]
    at = draw.randrange(len(key) + 1)
    changed += [key[:at] + key[at + 1 :], f"x{head}.{ending}"]
    row = draw.choice(KEY_FORMATS)
    if parsed and parsed.part in row.suffixes:
        changed += [row.format(parsed.module, parsed.part)] * 3 if "processor" not in row.name else []
    table[draw.choice(changed)] = entry


def _shape(table: dict[str, Any], body: bytearray, draw: random.Random) -> None:
    key = _one(table, draw)
    if key is not None:
        shape, size = list(table[key]["shape"]), 1
        for number in shape:
            size *= number
        table[key]["shape"] = draw.choice(
            [[size], [size, 1], [1, size, 1, 1], shape[::-1], [1, *shape], [0], []]
        )


def _type(table: dict[str, Any], body: bytearray, draw: random.Random) -> None:
    """Another type; half of them with a shape that fits the bytes."""
    key = _one(table, draw)
    if key is not None:
        table[key]["dtype"] = name = draw.choice(_TYPES)
        start, end = table[key]["data_offsets"]
        width = {"F64": 8, "I64": 8, "C64": 8, "F32": 4, "F16": 2, "BF16": 2, "F4": 0.5}.get(name, 1)
        if draw.random() < 0.7:
            table[key]["shape"] = [int((end - start) / width)]


def _metadata(table: dict[str, Any], body: bytearray, draw: random.Random) -> None:
    number = draw.choice(_NUMBERS)
    texts = [
        number,
        f'{{"unet.lora_alpha": {number}}}',
        f'{{"a": {{"b": {number}}}}}',
        '{"unet.alpha_pattern": 1}',
    ]
    table["__metadata__"][draw.choice(_FIELDS)] = draw.choice(texts)


def _value(table: dict[str, Any], body: bytearray, draw: random.Random) -> None:
    for _ in range(8 if body else 0):
        body[draw.randrange(len(body))] = draw.choice((0, 127, 255, draw.randrange(256)))


def outcome(data: bytes, folder: Path) -> str:
    """ "read", or the error's type. Raises AssertionError for an error of several lines, and what is no ReCharError."""
    path = folder / "x.safetensors"
    path.write_bytes(data)
    try:
        made = files.read(path)
    except ReCharError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) <= 400, text
        return type(error).__name__
    assert made.modules
    str(inspect(made)), inspect(made).as_dict()
    state = files.convert(made, "kohya")
    again = files.from_tensors(state)
    assert set(again.modules) == set(made.modules)
    for module, one in made.pairs.items():
        torch.testing.assert_close(again.pairs[module].delta(), one.delta(), equal_nan=True)
    return "read"


def outcomes(number: int, seed: int) -> Iterator[str]:
    """The outcome of each mutation. Raises AssertionError with the number of the first one that is none."""
    originals = sound()
    with tempfile.TemporaryDirectory() as folder:
        for count in range(number):
            draw = random.Random(f"{seed} {count}")
            try:
                yield outcome(mutated(draw.choice(originals), draw), Path(folder))
            except Exception as error:
                raise AssertionError(
                    f"mutation {count} of seed {seed}: {type(error).__name__}: {error}"
                ) from error


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("number", type=int, help="how many damaged files")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    logging.disable()  # of keys that are not understood, which most of these files have
    counts = Counter(outcomes(given.number, given.seed))
    print(f"{given.number} damaged files: {', '.join(f'{n} {what}' for what, n in counts.most_common())}")


if __name__ == "__main__":
    main()
