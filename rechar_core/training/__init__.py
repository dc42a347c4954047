"""Training a B-LoRA: recipe, noise, loss, LoRA layers, steps, states to resume from."""
