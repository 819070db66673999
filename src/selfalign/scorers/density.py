"""Where a pair lies among the others: the cluster it falls into, and how crowded that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from selfalign.errors import UserError, refuse
from selfalign.protocols import Context, Engine
from selfalign.scorers._model import another, asked, check_engine, fingerprint
from selfalign.types import Example, FloatArray, derive_seed, is_score_name, with_score


@dataclass(frozen=True)
class Density:
    """Clusters the examples by k-means and gives each the number of its cluster and that cluster's share of them all.

    I-SHEEP's density filter (2408.08072) clusters final-layer vectors of some 10,000 pairs into K = 3,000 and keeps one of
    each cluster: `OnePerCluster`, at random or the one of lowest perplexity. Only numbers of the same batch may be compared.
    """

    clusters: int = 0
    """K; 0 is three for every ten examples, the authors' ratio."""
    vectors: Literal["model", "encoder"] = "model"
    """model: mean-pooled last hidden states; encoder: the recipe's encoder."""
    model: str = "current"
    """Whose hidden states: current, base, a folder or a name on the hub."""
    name: str = "density"
    """Of the share; the cluster's number is `<name>_cluster`."""
    engine: Engine | None = field(default=None, repr=False)
    """What runs the model, where that is not the recipe's engine; not with current."""

    def __post_init__(self) -> None:
        refuse(
            self,
            clusters=self.clusters < 0,
            vectors=self.vectors not in ("model", "encoder"),
            model=not self.model,
            name=not is_score_name(self.name),
        )
        check_engine(self.model, self.engine)

    @property
    def other_model(self) -> str:
        return another(self.model) if self.vectors == "model" else ""

    def check(self) -> str:
        """The hash of the model asked, where it is one of its own. Raises UserError where there is no such model."""
        return fingerprint(self.model, self.engine)

    def score(self, context: Context, examples: Sequence[Example]) -> list[Example]:
        """Adds `density`, in (0, 1], and `density_cluster`, counted from 0 in order of first appearance."""
        if not examples:
            return []
        texts = [f"{example.full_prompt}\n{example.response}" for example in examples]
        if self.vectors == "encoder":
            rows = context.encode(texts)
        else:
            with asked(context, self.model, self.engine) as reader:
                rows = reader.session.embed(texts)
        count = self.clusters or max(1, round(0.3 * len(examples)))
        labels = _labels(rows, count, derive_seed(context.seed, context.round, self.name))
        order = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        share = {label: count / len(labels) for label, count in Counter(labels).items()}
        return [
            with_score(with_score(example, self.name, share[label]), f"{self.name}_cluster", order[label])
            for example, label in zip(examples, labels, strict=True)
        ]


def _labels(rows: FloatArray, clusters: int, seed: int) -> list[int]:
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise UserError(f"Density needs the package {error.name}; install it with: pip install 'selfalign[hf]'") from error

    different = len(np.unique(rows, axis=0))
    means: Any = KMeans(n_clusters=min(clusters, different), n_init=1, random_state=seed % 2**32)
    # One thread: sums that several threads add up in any order can tip a row over to the next cluster.
    with threadpool_limits(limits=1):
        return [int(label) for label in means.fit_predict(rows)]
