"""I-LIF on NVIDIA GPUs: ilif.cu (the kernels), launch.py (CuPy), ilif.py (operators for torch)."""
