"""Tools over graphs: the reference machine, rewriting, signatures, checks, text."""
