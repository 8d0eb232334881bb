"""A job made ready: checked with its data by shapes alone, then built, its step planned."""
