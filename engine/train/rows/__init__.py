"""Rows of a job: cut into parts, prepared, made into feeds."""
