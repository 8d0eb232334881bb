"""`python -m service.cli`: the same as `trainyard`."""

from service.cli import main

main()
