"""The service from Python.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit("digits.json")
        for event in client.watch(job.id):
            print(event.message)
        print(client.predict(job.id, dataset="sample:digits").classes)
"""

from service.client.client import Client
from service.client.errors import ClientError, Failed, Problem, Refused, Unreachable
from service.client.lineage import Model
from service.client.objects import Checkpoint, Column, Dataset, Evaluation, Event, Job, Prediction, Validation

__all__ = ["Checkpoint", "Client", "ClientError", "Column", "Dataset", "Evaluation", "Event", "Failed", "Job", "Model", "Prediction", "Problem",
           "Refused", "Unreachable", "Validation"]
