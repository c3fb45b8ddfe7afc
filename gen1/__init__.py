"""What event recordings are on disk and how detections in them are scored; no torch."""

__version__ = "0.1.0"  # the whole project's; pyproject.toml reads it here
