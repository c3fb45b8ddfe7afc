"""The event-camera simulator behind `python -m simulator`.

One street per seed: `figures`, `vehicles`, `riders` and `backdrop` draw what is in it, `cast`
chooses, `scene` moves it, `render` turns it into log-luminance, `camera` turns that into events.

Log-luminance, texture coordinates and events are integers; what is left in floating point uses
only + - * /, square roots and rounding, which IEEE 754 fixes to the last bit. No sin, exp or log is
called and no sum depends on an order of threads, so a seed gives the same bytes on every machine.
"""
