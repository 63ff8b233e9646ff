"""Loaded engines behind one small seam: uint8 views in, logits out."""
