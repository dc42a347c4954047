"""SDXL on diffusers: loading, text encoding, the UNet for training, drawing, memory. The command line runs on it."""
