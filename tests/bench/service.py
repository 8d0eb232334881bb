"""The service's figures: POST to first epoch, jobs a second, resident memory. Filled in from a real server."""


def measure_service() -> dict[str, object]:
    return {}
