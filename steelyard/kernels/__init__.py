"""Fast twins: what this machine has of them (`native.py`: the C++ routines of `native/`, an optional distribution; `gpu.py`: Triton ones for GPUs)."""
