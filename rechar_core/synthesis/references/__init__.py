"""Reference images in the cross-attention: IP-Adapters, masked attention, layout maps."""
