"""The tables and figures of the papers, re-run by one command each: see README.md."""
