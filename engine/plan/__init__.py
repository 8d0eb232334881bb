"""From nodes to a flat table of kernel launches over one arena."""
