"""Pictures of glyphs in materials, drawn by program: batched torch code that runs on a CPU and on a card alike."""
