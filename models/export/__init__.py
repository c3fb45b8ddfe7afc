"""Take it away: a deployed network as golden vectors, ONNX or NIR; `python -m models.export`.

All of them are written from one description, `models.export.graph`: a list of plain layers.
"""
