"""The filters: prompts of the judge, perplexity below 50, one of each cluster, and both of these."""

from __future__ import annotations

from collections.abc import Iterator

from papers.isheep import _ablation, _runs
from papers.kit import Kit
from papers.table import Cell, Table


def fill(kit: Kit) -> Iterator[Cell]:
    arms = {
        "simple": _runs.recipe(kit, standard="simple"),
        _runs.MAIN: _runs.recipe(kit),
        "in_context": _runs.recipe(kit, standard="in_context"),
        "density_perplexity": _runs.recipe(kit, select="density_perplexity"),
        "density": _runs.recipe(kit, select="density"),
        "perplexity": _runs.recipe(kit, select="perplexity"),
    }
    yield from _ablation.cells(kit, arms, {})


TABLE = Table(
    title="what selects: three prompts of the judge, perplexity, density, density and perplexity; iteration 3",
    models=_runs.LARGEST,
    needs=_ablation.NEEDS,
    fill=fill,
    source="arXiv 2408.08072, filters at iteration 3",
    notes=(_ablation.KEPT,),
    paper={
        "72b, simple": {"P-strict": 42.1},
        "72b, combined": {"P-strict": 41.2},
        "72b, in_context": {"P-strict": 41.2},
        "72b, density_perplexity": {"P-strict": 38.8},
        "72b, density": {"P-strict": 37.5},
        "72b, perplexity": {"P-strict": 33.3},
    },
)
