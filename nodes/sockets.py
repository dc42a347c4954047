"""The socket types of this pack."""

from comfy_api.latest import io

BLora = io.Custom("BLORA")
Llm = io.Custom("SOULSTYLER_LLM")
Segmenter = io.Custom("SOULSTYLER_SEGMENTER")
ObjectRegion = io.Custom("SOULSTYLER_TARGET")
Guide = io.Custom("SOULSTYLER_GUIDE")
IPAdapters = io.Custom("RECHAR_ADAPTERS")
References = io.Custom("RECHAR_REFERENCE")
Layout = io.Custom("RECHAR_LAYOUT")
