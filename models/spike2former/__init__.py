"""Spike2Former: segmentation, per mask or per pixel."""
