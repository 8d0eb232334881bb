"""A run: the loop, what it tells, and the checkpoints from which it goes on with the same bits."""
