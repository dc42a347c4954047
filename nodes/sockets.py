"""Our socket types, each declared once."""

from comfy_api.latest import io

BLora = io.Custom("BLORA")
