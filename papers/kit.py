"""What the tables share: data, models at a scale, studies that are run once and read by every table that needs them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from papers.table import Cell, Table
from selfalign.encoders import Hashed
from selfalign.engines import HF, Scripted
from selfalign.errors import UserError
from selfalign.proof.crossed import crossed_mean
from selfalign.proposers import Instructions
from selfalign.protocols import Evaluator, Progress
from selfalign.recipe import Recipe
from selfalign.record.finished import Finished, paired_metrics, read_run
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.study.ready import Arm, Study
from selfalign.study.run import run_study
from selfalign.trainers import NullTrainer
from selfalign.types import BOUNDS, SHARES, Example, Metric, Sampling

Part = TypeVar("Part")

NEEDS: Mapping[str, str] = {
    "beavertails": "BeaverTails as published: a folder or file of rows with prompt, response, category, is_safe"
    " (without it the hub's PKU-Alignment/BeaverTails)",
    "TruthfulQA.csv": "TruthfulQA's table as its authors publish it",
    "alpaca_eval.json": "AlpacaEval's 805 instructions with reference answers, as published",
    "beaver-dam": "Beaver-Dam-7B as safetensors: python papers/convert.py weights FOLDER beaver-dam",
    "beaver-reward": "Beaver-7B-v1.0-Reward as a classifier: python papers/convert.py reward FOLDER beaver-reward",
    "seed_tasks.jsonl": "Self-Instruct's 175 seed tasks as published",
    "alpaca_eval_gpt4_baseline.json": "AlpacaEval's 805 instructions with GPT-4 Turbo's answers, as published",
    "mt_bench_questions.jsonl": "MT-Bench's question.jsonl",
    "mt_bench_references.jsonl": "MT-Bench's reference_answer/gpt-4.jsonl",
    "ifeval.jsonl": "IFEval's input_data.jsonl",
    "HumanEval.jsonl.gz": "HumanEval as published",
    "HumanEvalPlus.jsonl": "HumanEval+ with all tests in the field test: the rows of evalplus/humanevalplus on the hub",
    "mbpp.jsonl": "MBPP as published, all 974 tasks",
    "triviaqa.jsonl": "rows of TriviaQA's rc.nocontext, validation (without it the hub's mandarjoshi/trivia_qa)",
    "judge": "a causal model that judges two answers (the paper's GPT-4 is behind an API: export the answers for it)",
}
"""What tables read, by its name in the folder of `--data`."""
ON_THE_HUB: Mapping[str, str] = {"beavertails": "PKU-Alignment/BeaverTails:330k_train"}
SCRIPTED = "scripted"
"""Model names that begin so need no weights: answers follow from the name, and training only pretends."""


@dataclass(frozen=True)
class Scale:
    """How much of everything; nothing else differs between a test on a processor and the paper's run on a GPU."""

    name: str
    share: float
    """Of the paper's rows and, unless `candidates` says otherwise, candidates."""
    max_tokens: int | None
    """No text is longer, where a number is given."""
    models: int | None
    """How many of a table's models are run unless some are named."""
    candidates: float | None = None
    """Of the paper's candidates."""
    questions: int = 0
    """How many of TruthfulQA's questions are asked; 0 asks all."""

    def rows(self, count: int, least: int = 4) -> int:
        """So many rows or candidates in place of the paper's `count`."""
        return max(least, round(self.share * count)) if self.share < 1 else count

    def shown(self, count: int) -> int:
        """So many demonstrations in place of the paper's."""
        return count if self.share >= 1 else min(count, 3)


SCALES = {
    "tiny": Scale("tiny", 1 / 64, 24, 1),
    "small": Scale("small", 1.0, None, None, candidates=1 / 32, questions=100),
    "paper": Scale("paper", 1.0, None, None),
}


@dataclass(frozen=True)
class Kit:
    """What a table is filled with. Everything it makes lies under `out`; a second call only reads what is finished."""

    out: Path
    scale: Scale
    data: Path
    """The folder with what the table needs."""
    models: Mapping[str, str]
    """Short name (as in the rows of the table) and model."""
    repeats: int = 1
    """Random seeds for each arm."""
    batch_size: int | None = None
    """Rows that the engine takes at once; None leaves it to the recipe."""
    progress: Progress | None = None
    unsafe_run_code: bool = False
    """Whether a table may run code that a model wrote."""

    def source(self, name: str) -> Path | str:
        """A file or folder of `data`, or the data set of the hub that takes its place.

        Raises:
            UserError: it is not there; the message says what belongs there.
        """
        if (path := self.data / name).exists():
            return path
        if name in ON_THE_HUB:
            return ON_THE_HUB[name]
        raise UserError(f"{path} is not there; this table needs {NEEDS.get(name, name)}")

    def made(self, folder: str, names: Sequence[str], make: Callable[[Path], object]) -> list[Path]:
        """The files `names` in `out/data/folder`, made by `make(folder)` unless they are all there already."""
        where = self.out / "data" / folder
        files = [where / name for name in names]
        if not all(file.exists() for file in files):
            where.mkdir(parents=True, exist_ok=True)
            make(where)
        return files

    def study(
        self,
        name: str,
        model: str,
        arms: Mapping[str, Recipe],
        seeds: Path | Sequence[Example],
        held_out: Path | Sequence[Example],
        evaluators: Sequence[Evaluator],
        *,
        like_the_first: bool = True,
    ) -> dict[str, list[Finished]]:
        """The finished runs of each arm, in `out/runs/name`; arms that another table has run there are not run again.

        All arms are measured by `evaluators` on the same prompts, with answers decoded as the first arm's recipe says; but for
        `like_the_first=False` they also share its engine, encoder and format. A generated question that is also a held-out one
        does not stop the run (no script of the papers looked); how many there were stands in each run's report.
        """
        shown, asked = _examples(seeds), _examples(held_out, response_required=False)
        first = next(iter(arms.values()))
        measured = replace(first, evaluators=tuple(evaluators), allow_overlap=True)
        made = [
            Arm(label, self.fitted(_like(measured, recipe, whole=like_the_first)), model, shown) for label, recipe in arms.items()
        ]
        folder = self.out / "runs" / name
        study = Study(made, asked, folder, self.repeats, self.progress, keep="all")
        run_study(study)
        return {
            arm.name: [
                read_run(folder, f"{arm.folder}/seed-{seed}", seed, asked)
                for seed in study.seeds
                if (folder / arm.folder / f"seed-{seed}").is_dir()
            ]
            for arm in made
        }

    def folders(self, name: str, runs: Sequence[Finished]) -> list[Path]:
        """The run folders of an arm of the study `name`."""
        return [self.out / "runs" / name / run.folder for run in runs]

    @property
    def scripted(self) -> bool:
        """Whether the models have no weights."""
        return any(model.startswith(SCRIPTED) for model in self.models.values())

    def fitted(self, recipe: Recipe) -> Recipe:
        """The recipe at this scale: fewer candidates, shorter texts; without weights where the models have none."""
        if self.scale.max_tokens is not None:
            capped, later = _capped(recipe, self.scale.max_tokens), recipe.second_turns
            if isinstance(recipe.proposer, Instructions):  # a list of ten tasks needs its room
                capped = replace(capped, proposer=recipe.proposer)
            recipe = replace(capped, encoder=Hashed())
            recipe = recipe if later.share else replace(recipe, second_turns=later)  # a part that is off keeps its defaults
        recipe = replace(recipe, per_round=self.fewer(recipe.per_round))
        if self.scripted:
            return replace(recipe, engine=Scripted(), trainer=NullTrainer(), encoder=Hashed())
        if self.batch_size is not None and isinstance(recipe.engine, HF):
            recipe = replace(recipe, engine=replace(recipe.engine, batch_size=self.batch_size))
        return recipe

    def fewer(self, per_round: int) -> int:
        """Candidates of a round at this scale; 0 stays 0."""
        if self.scale.candidates is not None:
            return round(self.scale.candidates * per_round)
        return self.scale.rows(per_round) if per_round else 0


def _like(first: Recipe, recipe: Recipe, *, whole: bool) -> Recipe:
    """A recipe that is measured as the first one is; `whole`: that is also run by the same engine and in the same format."""
    same = replace(recipe, evaluators=first.evaluators, eval_sampling=first.eval_sampling, allow_overlap=first.allow_overlap)
    return replace(same, engine=first.engine, encoder=first.encoder, format=first.format) if whole else same


def cell(
    row: str, column: str, repeats: Sequence[Metric], *, among: Collection[str] | None = None, factor: float | None = None
) -> Cell:
    """Our figure for a place of the table: the mean over prompts and random seeds of a metric with its outcomes.

    Args:
        repeats: the metric of each random seed's run.
        among: only these prompts, by id.
        factor: what it is multiplied with; 100 for a share and 1 for everything else, if nothing is said.

    A prompt without an outcome in one of the runs (a judge gave no verdict) is left out in all; `n` says how many are left.

    Raises:
        UserError: no prompt is left.
    """
    first = repeats[0]
    common = set.intersection(*({each.id for each in metric.outcomes} for metric in repeats))
    chosen = common if among is None else common & set(among)
    if not chosen:
        raise UserError(f"{first.name} has no outcome for {row}, {column}: no answer was judged")
    kept = [[each for each in metric.outcomes if each.id in chosen] for metric in repeats]
    found = crossed_mean(kept, bounds=BOUNDS.get(first.unit, (-inf, inf)))
    times = factor if factor is not None else 100.0 if first.unit in SHARES else 1.0
    return Cell(row, column, times * found.value, times * found.low, times * found.high, found.prompts, found.repeats)


def of_round(folder: Path, round: int) -> dict[str, Metric]:
    """The metrics of one round of a run, by name, with their outcomes; none where the run ended before it."""
    with Store.read(folder) as store:
        return paired_metrics(store, round)


def answers(folder: Path, round: int) -> dict[str, str]:
    """What the model of a round of a run answered to the held-out prompts, by their ids."""
    with Store.read(folder) as store:
        return {row["id"]: row["text"] for row in store.done_batches(round, "held_out").values()}


def kept(folder: Path) -> list[tuple[Example, ...]]:
    """What each round of a run kept, of the rounds that were filtered."""
    with Store.read(folder) as store:
        rounds: list[tuple[Example, ...]] = []
        while store.stage(len(rounds) + 1, "filter") is not None:
            rounds.append(store.kept(len(rounds) + 1))
        return rounds


def chosen_models(table: Table, named: Sequence[str], scale: Scale) -> dict[str, str]:
    """Short name and model: those named, or those of the table (at a scale that needs no weights the first of them).

    A name is the short or hub name of one of the table's models, SHORT=FOLDER, or any other model.
    """
    if not named:
        labels = list(table.models)[: scale.models]
        return {label: f"{SCRIPTED}/{label}" if scale.models is not None else table.models[label] for label in labels}
    found: dict[str, str] = {}
    short = {hub: label for label, hub in table.models.items()}
    for name in named:
        label, equals, model = name.partition("=")
        if equals:
            found[label] = model
        elif name in table.models:
            found[name] = table.models[name]
        else:
            found[short.get(name, Path(name).name)] = name
    return found


def _examples(source: Path | Sequence[Example], response_required: bool = True) -> tuple[Example, ...]:
    return read_seeds(source, response_required=response_required) if isinstance(source, Path) else tuple(source)


def _capped(part: Part, most: int) -> Part:
    """A part with every `Sampling` in it cut to at most so many tokens, one that takes what the seeds need included."""
    if isinstance(part, Sampling):
        return replace(part, max_tokens=min(part.max_tokens or most, most))
    if isinstance(part, tuple):
        return tuple(_capped(each, most) for each in part)  # type: ignore[return-value]
    if is_dataclass(part) and not isinstance(part, type):
        changed: dict[str, Any] = {}
        for each in fields(part):
            before = getattr(part, each.name)
            if (after := _capped(before, most)) is not before and after != before:
                changed[each.name] = after
        return replace(part, **changed) if changed else part
    return part
