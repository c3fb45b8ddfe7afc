"""What the simulated camera is, and whom it meets unless told otherwise."""

HEIGHT, WIDTH = 240, 304
#: Classes of the default streets, in the order of their ids: Gen1's.
CLASSES = ("car", "pedestrian")
#: What is behind and between them, in the order of its numbers in masks.
STUFF = ("background", "road", "building", "vegetation")
