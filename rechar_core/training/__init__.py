"""Training a B-LoRA: recipe, draws, objective, adapters, loop, resumable state."""
