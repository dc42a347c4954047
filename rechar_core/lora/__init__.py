"""LoRA files and their layers: blocks of the UNet, key formats, reading, writing, inspecting, fusing."""
