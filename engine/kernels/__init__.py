"""How loops are made: a kernel is Python text, written to a file once per number type, compiled by numba and cached on disk."""
