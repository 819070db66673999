"""Retrievers: which examples a prompt is shown."""

from selfalign.retrievers.copied import Copied
from selfalign.retrievers.knn import Knn
from selfalign.retrievers.uniform import Uniform

__all__ = ["Copied", "Knn", "Uniform"]
