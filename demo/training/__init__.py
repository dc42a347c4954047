"""Training of the demo model: data on disk, latents and codes, the UNet, the VAE's decoder, the text encoders."""
