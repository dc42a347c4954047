"""A graphics card that is simulated on the CPU, so that the tests see what only a machine with a card would show.

device.py   the device "sim": its tensors are of their own device, its memory is counted and has a limit
aimdo.py    the C library of comfy-aimdo on that memory: weights of the host's dynamic VRAM, which really are taken back
cuda.py     torch.cuda's answers about the card, so that ComfyUI's own code finds one
host.py     a ComfyUI host on the card, in the running process, with dynamic VRAM and without
launch.py   a ComfyUI server on the card
check_*.py  what the tests run in processes of their own, by checking.py
matrix.py   every training case on the card: `python -m tests.accelerator.matrix`

Shown are: an operation on tensors of two devices, memory held after it should have been given back, peaks, running out
of memory at any allocation, weights used after the host took them back, objects of comfy-aimdo freed twice or used
after they were freed. 16-bit types are computed in fp32 and rounded after each operation, as a card does.

Not shown are: streams and what runs at the same time (a copy is done when it returns), pinned memory (all of the CPU's
memory is as good), CUDA graphs, kernels of cuDNN, cuBLAS or flash attention and their workspaces, fragmented memory,
autocast, the card's own random numbers, and time. `device.type` is "sim", not "cuda": code that asks for "cuda" is not
run.
"""
