from engine.plan.graphs import GraphMaker, StepGraph  # noqa: F401
