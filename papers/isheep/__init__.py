"""I-SHEEP (arXiv 2408.08072): its main table, its ablations and its benchmarks."""
