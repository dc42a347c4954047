"""Reference images in the cross-attention: adapters, masked attention, layout maps. Imported piece by piece."""
