"""What is drawn: prompts with elements, reference images, the passes of a picture, lettering. No model library here."""
