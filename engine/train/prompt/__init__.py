"""Training at a prompt: Python functions of a model, triggers and criteria called by hand."""
