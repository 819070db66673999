"""`python -m selfalign`."""

from selfalign.cli.main import entry

entry()
