"""Semantic segmentation: which pixel is of which class, on events and on pictures."""
