"""The recipe contrast through the front door: what stands against what, shown whose examples, and where it all goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.encoders import Hashed
from selfalign.engines import HF
from selfalign.loop.align import align
from selfalign.proof.alarms import Alarms
from selfalign.proposers import Contrasted
from selfalign.protocols import Context
from selfalign.recipes import contrast
from selfalign.record.store import Store
from selfalign.retrievers import Knn
from selfalign.seeds.read import read_seeds
from selfalign.types import Dropped, Example, FilterResult, Sampling, preferences, preferred_to
from tests.conftest import SCRIPTED, Refused, Run
from tests.e2e.test_dpo import arms
from tests.files import succeeded, write_rows


def test_every_answer_stands_against_one_of_another_category(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ("--per_round", 12, "--rounds", 2, "--validation_share", 0, "--min_yield", 0)
    succeeded(cli("run", "contrast", seeds_file, *SCRIPTED, *small, "--out", out, "--quiet"))
    with Store.read(out) as store:
        seeds, rounds = store.seeds(), {round: (store.kept(round), store.dropped(round)) for round in (1, 2)}
    known = {seed.id: seed for seed in seeds}
    for kept, dropped in rounds.values():
        made = [*kept, *(drop.example for drop in dropped)]
        first = [one for one in kept if not preferred_to(one)]
        against = [one for one in made if preferred_to(one)]
        # One draft against each seed and each pair kept, behind the twelve; nothing is lost.
        assert {preferred_to(one) for one in against} == {one.id for one in (*seeds, *first)}
        assert sorted(one.slot for one in made) == list(range(12 + len(against)))
        known |= {one.id: one for one in first}
        for one in against:
            chosen = known[preferred_to(one)]
            assert one.prompt == chosen.prompt and one.category != chosen.category
            assert one.response_demonstrations and all(known[d.id].category == one.category for d in one.response_demonstrations)
        pairs = preferences((*seeds, *kept))
        assert pairs and all(pair.chosen.response.strip() != pair.rejected.response.strip() for pair in pairs)
    # What is rejected is shown to nobody later, and exported as such alone.
    shown = {d.id for one in rounds[2][0] for d in (*one.prompt_demonstrations, *one.response_demonstrations)}
    assert not shown & {one.id for one in rounds[1][0] if preferred_to(one)}
    assert shown & {one.id for one in rounds[1][0]}
    file = tmp_path / "pairs.jsonl"
    assert cli("export", out, "--data", file, "--format", "preference").returncode == 0
    written = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(written) == sum(bool(preferred_to(one)) for kept, _ in rounds.values() for one in kept)


def test_one_category_has_nothing_to_contrast(cli: Run, tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    rows = ({"prompt": f"How do I mend {n} chairs?", "response": "With glue and patience.", "category": "help"} for n in range(8))
    write_rows(seeds, rows)
    done = cli("run", "contrast", seeds, *SCRIPTED, "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 2 and "the seeds have only 'help': name two or more" in done.stderr
    assert not (tmp_path / "out").exists()


def test_one_category_left_to_show_has_nothing_to_contrast(refused: Refused, tmp_path: Path) -> None:
    rows = [{"prompt": f"How do I {do} it?", "response": "With patience.", "category": do} for do in ("mend", "paint")]
    seeds = write_rows(tmp_path / "seeds.jsonl", rows)
    said = refused("run", "contrast", seeds, *SCRIPTED, "--validation_share", 0.5, "--out", tmp_path / "out", "--quiet")
    assert "name two or more" in said and not (tmp_path / "out").exists()


@dataclass(frozen=True)
class NoRivals:
    """Drops all answers that are to be rejected, as filters do where a model does not follow another category's examples."""

    def apply(self, context: Context, examples: Sequence[Example]) -> FilterResult:
        rivals = [example for example in examples if preferred_to(example)]
        kept = tuple(example for example in examples if example not in rivals)
        return FilterResult(kept, tuple(Dropped(rival, "no_rivals", "all of them") for rival in rivals))


def test_a_round_without_an_answer_to_reject_ends_the_run_and_does_not_fail(
    seeds_file: Path, model_folder: Path, tmp_path: Path
) -> None:
    short = Sampling(max_tokens=6)
    recipe = replace(
        contrast(),
        proposer=Contrasted(demonstrations=1, sampling=short),
        retriever=Knn(demonstrations=1, by_category=True),
        sampling=short,
        prompt_filters=(),
        filters=(NoRivals(),),
        per_round=2,
        min_yield=0.0,
        validation_share=0.0,
        engine=HF(dtype="float32"),
        encoder=Hashed(),
        evaluators=(),
        alarms=Alarms(action="off"),
    )
    done = align(recipe, str(model_folder), read_seeds(seeds_file), tmp_path / "out", progress=None)
    assert done.best_round == 0 and "round 1 kept no answer to be rejected" in done.stopped_because


def test_given_prompts_are_answered_and_each_answer_kept_is_opposed(
    seeds_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    things = ("lamp", "vase", "clock", "kettle", "sofa")
    rows = [{"prompt": f"Whom may I call whenever our {thing} breaks at night?"} for thing in things]
    write_rows(prompts, (*rows, {**rows[0], "prompt": "Why?", "category": "care"}))
    small = ("--per_round", "8", "--prompts", str(prompts), "--validation_share", "0", "--min_yield", "0", "--quiet")
    without = ("--without", "prompt_filters.category_agreement", "prompt_filters.length", "filters.category_agreement")
    plain = [str(seeds_file), *map(str, SCRIPTED), *small, *without]
    assert main(["run", "contrast", *plain, "--out", str(out)]) == 0
    with Store.read(out) as store:
        kept, dropped, seeds = store.kept(1), store.dropped(1), store.seeds()
    made = [*kept, *(drop.example for drop in dropped)]
    given = [one for one in made if not preferred_to(one)]
    assert len(given) == 6 and all(one.metadata["source"] == "given" and one.category in ("care", "repair") for one in given)
    assert sum("category_by" in one.metadata for one in given) == 5
    whole = {one.id: one for one in (*seeds, *kept) if not preferred_to(one)}
    against = [one for one in made if preferred_to(one)]
    assert {preferred_to(one) for one in against} == whole.keys() and len(whole) > len(seeds)
    assert all(one.category != whole[preferred_to(one)].category for one in against)
    assert sorted(one.slot for one in made) == list(range(len(made))), "the file has six of the eight asked for"

    fed = arms(seeds_file, "isara", "--prompts", str(prompts), "--baselines", "contrast,dpo")
    assert fed["contrast"].recipe.given and not fed["dpo"].recipe.given, "as a baseline it is given the same ones"
    lone = tmp_path / "lone.jsonl"
    lone.write_text("".join(json.dumps({**json.loads(line), "category": "care"}) + "\n" for line in seeds_file.open()))
    assert main(["run", "contrast", str(lone), *plain[1:], "--out", str(tmp_path / "no")]) == 2
    assert "the seeds have only 'care'" in capsys.readouterr().err


def test_what_is_declared_filters_what_is_preferred(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ("--per_round", 24, "--rounds", 1, "--validation_share", 0, "--min_yield", 0, "--ignore_seed_rules", "true")
    succeeded(cli("run", "contrast", seeds_file, *SCRIPTED, *small, "--expect", "max_words:25", "--out", out, "--quiet"))
    with Store.read(out) as store:
        kept, dropped = store.kept(1), store.dropped(1)
    assert kept and max(len(one.response.split()) for one in kept) <= 25
    assert {bool(preferred_to(drop.example)) for drop in dropped if "max_words" in drop.rule} == {True, False}


def test_second_turns_would_stand_against_nothing(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    for recipe in ("contrast", "dpo"):
        done = cli("run", recipe, seeds_file, *SCRIPTED, "--second_turns.share", 0.5, "--out", tmp_path / "out", "--quiet")
        assert done.returncode == 2 and "second_turns.share = 0.5, must be 0 where answers are to be" in done.stderr
    assert not (tmp_path / "out").exists()
