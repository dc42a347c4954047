"""Splits an instruction with a local instruct model instead of the rules: greedy decoding, checked output.

Every value in the output must be a span of the instruction; otherwise the output is not used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import RecipeError, check_choice
from .folders import need_files, pretrained, tokenizer_of
from .grammar import Pair, Request, parse

_FILES = ("config.json", "tokenizer_config.json")
_NEW_TOKENS = 256
MODES = ("auto", "rules", "LLM")
_TASK = """Someone wants one object of a picture restyled. Split the instruction into pairs of a style and the object \
it is for. Copy every value letter by letter from the instruction, without articles and without the word "style". \
"head" is the noun of the object alone; "part" is the part of the object that is meant, or "". Answer with JSON only: \
{"pairs": [{"style": "...", "object": "...", "head": "...", "part": ""}]}. Without an object, "pairs" is [].

Instruction: Turn the old boat on the lake into a watercolour
Answer: {"pairs": [{"style": "watercolour", "object": "old boat on the lake", "head": "boat", "part": ""}]}
Instruction: 把左边的猫变成油画风格
Answer: {"pairs": [{"style": "油画", "object": "左边的猫", "head": "猫", "part": ""}]}
Instruction: """


Writer = Callable[[str], str]  # any model: the output for a prompt


@dataclass(frozen=True)
class Llm:
    """A causal language model of transformers and its tokenizer: a Writer."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path) -> Llm:
        """Loads a model from a local folder in transformers' layout, without running its code; nothing is downloaded.

        Raises FileError naming the folder and the missing files, ModelError if transformers cannot read it.
        """
        need_files(folder, _FILES, "an instruct model (transformers' layout with .safetensors)")
        tokenizer = tokenizer_of(folder, "an LLM")
        return cls(pretrained("AutoModelForCausalLM", folder, "an LLM"), tokenizer)

    def __call__(self, prompt: str) -> str:
        """The model's greedy output, with its chat template if it has one."""
        if getattr(self.tokenizer, "chat_template", None):
            message = [{"role": "user", "content": prompt}]
            prompt = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        tokens = self.tokenizer(prompt, return_tensors="pt")
        ids = tokens["input_ids"].to(self.model.device)
        with torch.no_grad():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=_NEW_TOKENS, do_sample=False
            )
        answer: str = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return answer


def read(instruction: str, llm: Writer) -> Request | None:
    """The request that the LLM reads in the instruction, or None if its output is not valid."""
    return checked(instruction, llm(f"{_TASK}{' '.join(instruction.split())}\nAnswer:"))


def read_in_mode(instruction: str, mode: str, llm: Writer | None) -> Request:
    """The request, by mode: "rules", "LLM", or "auto" (the LLM if there is one, else the rules).

    If the LLM's output is not valid the rules are used, and `by` says so. Raises RecipeError for an empty
    instruction, for the mode "LLM" without one, and for an unknown mode.
    """
    check_choice("mode", mode, MODES, RecipeError)
    if not instruction.strip():
        raise RecipeError("The instruction is empty; write, say, 'turn the car into a watercolor'.")
    if mode == "LLM" and llm is None:
        raise RecipeError(
            "The mode is 'LLM' and none is connected: connect Load Instruction LLM or an answer, or choose 'rules'."
        )
    if mode == "rules" or llm is None:
        return parse(instruction)
    return read(instruction, llm) or replace(
        parse(instruction), by="rules (the LLM's answer could not be used)"
    )


def checked(instruction: str, answer: str) -> Request | None:
    """The request in the first JSON object of an output; None unless every value is a span of the instruction."""
    match = re.search(r"\{.*?\]\s*\}", answer, re.DOTALL)
    try:
        listed = json.loads(match[0])["pairs"] if match else ()
        pairs = tuple(Pair(p["style"], p["object"], p["head"], p.get("part") or "") for p in listed)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    usable = bool(pairs) and all(_of_spans(pair, instruction) for pair in pairs)
    return Request(pairs[0].style, pairs, "LLM") if usable else None


def _of_spans(pair: Pair, instruction: str) -> bool:
    spans = all(isinstance(value, str) and value in instruction for value in vars(pair).values())
    return spans and all((pair.style, pair.object, pair.head)) and pair.head in pair.object
