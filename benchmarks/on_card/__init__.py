"""What benchmarks/gpu.py measures on a graphics card, a module for each section.

Each has `run(task)`, which hands in a row as soon as it is measured; gpu.py runs it in a process of its own.

card.py      versions, the card, its own rates of matrix products and copies
training.py  a training step at real size in every memory mode, and the published recipe's
pictures.py  from glyph and style picture to the finished picture; what a fused LoRA costs in drawing
host.py      a real ComfyUI server: the demo workflows, and SDXL's training where there is a checkpoint
quality.py   with a checkpoint: 8 glyphs x 4 styles, scored as benchmarks/quality.py does
table.py     all of it as Markdown
"""
