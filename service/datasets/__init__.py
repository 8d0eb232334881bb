"""Data sets: uploads become typed columns on disk. `ingest` takes one in, `open_table` maps it for training."""

from service.datasets.formats import options
from service.datasets.ingest import Incoming, Ingested, Part, content, folder_of, ingest, ingest_inline, ingest_parts, open_table
from service.datasets.limits import DatasetError, Limits

__all__ = ["DatasetError", "Incoming", "Ingested", "Limits", "Part",
           "content", "folder_of", "ingest", "ingest_inline", "ingest_parts", "open_table", "options"]
