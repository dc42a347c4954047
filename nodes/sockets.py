"""The socket types of this pack, and what each carries."""

from comfy_api.latest import io

BLORA = io.Custom("BLORA")  # lora.blora.BLora
ANY_LORA = [
    BLORA,
    io.Custom("LORA_MODEL"),
]  # or the state dict of ComfyUI's own Train LoRA: host.loras.as_blora
LLM = io.Custom("SOULSTYLER_LLM")  # soulstyler.llm.Llm
SEGMENTER = io.Custom("SOULSTYLER_SEGMENTER")  # soulstyler.segmenters: ClipSeg or Grounded
TARGET = io.Custom("SOULSTYLER_TARGET")  # soulstyler.compositing.ObjectRegion
GUIDE = io.Custom("SOULSTYLER_GUIDE")  # soulstyler.guide.Guide
ADAPTERS = io.Custom("RECHAR_ADAPTERS")  # synthesis.references.encoding.IPAdapters
REFERENCES = io.Custom("RECHAR_REFERENCE")  # a tuple of synthesis.references.attention.Reference
LAYOUT = io.Custom("RECHAR_LAYOUT")  # synthesis.references.layout.Layout
COLOUR = io.Custom("COLOR")  # ComfyUI's own; older versions have no name for it
