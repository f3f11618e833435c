"""Tensors in, tensors out: the model itself. Knows no file, no network and no image format."""
