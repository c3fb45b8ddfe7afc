"""EMS-YOLO (ICCV 2023): blocks, network, head, loss, neuron."""
