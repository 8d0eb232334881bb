"""The service: jobs over HTTP, told apart from arrays, which are the engine's."""
