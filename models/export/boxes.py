"""Raw maps -> boxes and scores, as ONNX nodes: what `model.decode` does."""

import numpy as np

from models.export.graph import Graph
from models.export.nodes import Nodes


def decoded(nodes: Nodes, graph: Graph, maps: list[str]) -> None:
    """Add "boxes" [B, A, 4] in network px and "scores" [B, A, nc], from maps [B, C, H, W]."""
    _RULES[graph.decode["kind"]](nodes, graph, maps)


def _distances(nodes: Nodes, graph: Graph, maps: list[str]) -> None:
    bins, classes = graph.decode["bins"], graph.decode["num_classes"]
    flat, points, strides = [], [], []
    for name, raw, stride in zip(graph.outputs, maps, graph.decode["strides"], strict=True):
        channels, height, width = graph[name].shape
        flat.append(nodes.add("Reshape", raw, nodes.whole(0, channels, height * width)))
        y, x = np.mgrid[:height, :width] + 0.5
        points.append(np.stack([x.ravel(), y.ravel()], axis=-1))
        strides.append(np.full((height * width, 1), stride))
    cells = nodes.add("Transpose", nodes.joined(flat, axis=2), perm=[0, 2, 1])
    sizes = nodes.whole(4 * bins, classes)
    sides, scores = nodes.several("Split", [cells, sizes], 2, axis=2)
    sides = nodes.add("Reshape", sides, nodes.whole(0, -1, 4, bins))
    share = nodes.add("Softmax", sides, axis=3)
    far = nodes.add("MatMul", share, nodes.constant(np.arange(bins)))
    near, farther = nodes.split(far, 2, axis=2)
    point = nodes.constant(np.concatenate(points))
    ends = [nodes.add("Sub", point, near), nodes.add("Add", point, farther)]
    corners = nodes.joined(ends, axis=2)
    nodes.add("Mul", corners, nodes.constant(np.concatenate(strides)), name="boxes")
    nodes.add("Sigmoid", scores, name="scores")


def _anchors(nodes: Nodes, graph: Graph, maps: list[str]) -> None:
    classes, boxes, scores = graph.decode["num_classes"], [], []
    rules = zip(graph.outputs, maps, graph.decode["strides"], graph.decode["anchors"], strict=True)
    for name, raw, stride, anchors in rules:
        _, height, width = graph[name].shape
        sides_wh = np.reshape(anchors, (-1, 1, 1, 2))
        shape = nodes.whole(0, len(sides_wh), 5 + classes, height, width)
        cells = nodes.add("Transpose", nodes.add("Reshape", raw, shape), perm=[0, 1, 3, 4, 2])
        parts = nodes.whole(2, 2, 1, classes)
        logistic = nodes.add("Sigmoid", cells)
        at, size, some, which = nodes.several("Split", [logistic, parts], 4, axis=4)
        y, x = np.mgrid[:height, :width] - 0.5
        corner = nodes.constant(np.stack([x, y], axis=-1))
        twice = nodes.constant(2)
        centre = nodes.add("Add", nodes.add("Mul", at, twice), corner)
        centre = nodes.add("Mul", centre, nodes.constant(stride))
        size = nodes.add("Mul", size, twice)
        half = nodes.add("Mul", nodes.add("Mul", size, size), nodes.constant(sides_wh / 2))
        ends = [nodes.add("Sub", centre, half), nodes.add("Add", centre, half)]
        boxes.append(nodes.add("Reshape", nodes.joined(ends, axis=4), nodes.whole(0, -1, 4)))
        found = nodes.add("Mul", some, which)
        scores.append(nodes.add("Reshape", found, nodes.whole(0, -1, classes)))
    nodes.joined(boxes, axis=1, name="boxes")
    nodes.joined(scores, axis=1, name="scores")


_RULES = {"distances": _distances, "anchors": _anchors}
