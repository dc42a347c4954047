"""ReChar without ComfyUI: training and generation on diffusers and accelerate, and the command line."""
