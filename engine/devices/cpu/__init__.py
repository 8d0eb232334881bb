"""The CPU device: kernels as machine code, plans run by one compiled loop that holds no interpreter lock."""
