"""ReChar's core: B-LoRA files, training, fusion and generation. Imports nothing of ComfyUI."""
