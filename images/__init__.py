"""Pictures instead of events: COCO-format image sets -> batches for the same networks."""
