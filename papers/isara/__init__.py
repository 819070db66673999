"""ISARA (arXiv 2401.06785), a file for each table and figure."""
