"""The report: a run folder (or a study's) as one self-contained HTML page."""
