"""Training: a job checked, built and run as a generator of events."""

from engine.train.job import Job
from engine.train.ready.build import Summary, build, check
from engine.train.ready.planned import Recent
from engine.train.start import start

__all__ = ["Job", "Recent", "Summary", "build", "check", "start"]
