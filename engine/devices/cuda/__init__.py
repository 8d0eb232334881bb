"""The CUDA device: the same plans, each row one launch of a GPU kernel, whole steps replayed as one graph."""
