"""What I-SHEEP's tables measure a model on: chat, instructions, code and knowledge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from papers import data
from papers.isheep._runs import Iteration, measured
from papers.kit import Kit, cell
from papers.table import Cell
from selfalign.errors import UserError
from selfalign.evaluators import Code, LmEval, MTBench, WinRate
from selfalign.export.answers import export_answers
from selfalign.record.store import Store
from selfalign.types import Metric


@dataclass(frozen=True)
class Column:
    """A column of the paper, and the metric that stands in it here."""

    name: str
    metric: str
    factor: float | None = None
    """As in `kit.cell`."""


ALPACA = "alpaca_eval_gpt4_baseline.json"
CHAT_NEEDS = (ALPACA, "mt_bench_questions.jsonl", "mt_bench_references.jsonl")
CODE_NEEDS = ("HumanEval.jsonl.gz", "HumanEvalPlus.jsonl", "mbpp.jsonl")
INSTRUCTIONS_NEEDS = ("ifeval.jsonl",)
KNOWLEDGE_NEEDS = ("triviaqa.jsonl",)

CHAT = (
    Column("AlpacaEval", "win_rate"),
    Column("MT-Bench", "mt_bench"),
    Column("MT-Bench, turn 1", "mt_bench_turn_1"),
    Column("MT-Bench, turn 2", "mt_bench_turn_2"),
    Column("not rated", "mt_bench_unrated"),
)
INSTRUCTIONS = tuple(
    Column(name, f"ifeval:{metric}")
    for name, metric in (
        ("P-strict", "prompt_strict"),
        ("I-strict", "inst_strict"),
        ("P-loose", "prompt_loose"),
        ("I-loose", "inst_loose"),
    )
)
CODE = (
    Column("HumanEval", "humaneval:pass@1"),
    Column("HumanEval+", "humaneval_plus:pass@1"),
    Column("MBPP", "mbpp:pass@1"),
)
KNOWLEDGE = (Column("TriviaQA", "triviaqa:exact_match"), Column("SQuAD 2", "squadv2:exact", 1.0))

CHAT_NOTES = (
    "AlpacaEval and MT-Bench here have a local judge, named `judge` in --data; the paper's is GPT-4, so the figures cannot be"
    " compared with its own before OUT/answers was judged by `alpaca_eval --model_outputs FILE`",
)
CODE_NOTES = (
    "asked as a user would; how the paper asked is not known to us, and its base models' figures are far below Qwen's own",
)
KNOWLEDGE_NOTES = (
    "by lm-evaluation-harness's own tasks, as raw text; which harness the paper used is not known to us, and what it shows of"
    " TriviaQA and SQuAD jumps between iterations 3 and 4",
    "SQuAD 2 needs the hub for its data and its metric, so it is left out at --scale tiny",
)


def chat(kit: Kit, row: str, iterations: Sequence[Iteration]) -> Iterator[Cell]:
    """AlpacaEval by a local judge against GPT-4 Turbo's answers, and MT-Bench; the answers are exported for the paper's judge."""
    _, prompts = kit.made(
        "alpaca_eval_gpt4",
        ["seeds.jsonl", "prompts.jsonl"],
        lambda out: data.alpaca_eval(kit.source(ALPACA), out, seeds=0, pool=0),
    )
    judge = "base" if kit.scale.share < 1 else str(kit.source("judge"))
    questions, references = (str(kit.source(name)) for name in CHAT_NEEDS[1:])
    bench = MTBench(questions, judge, references, limit=_limit(kit, 80))
    found = measured(kit, "chat", iterations, [WinRate(judge), bench], prompts)
    for (folder, _), one in zip(found, iterations, strict=True):
        file = kit.out / "answers" / f"{'-'.join(one.run.relative_to(kit.out / 'runs').parts)}-iteration-{one.round}.json"
        file.parent.mkdir(exist_ok=True)
        with Store.read(folder) as store:
            export_answers(store, file, 0)
    yield from _cells(row, CHAT, [metrics for _, metrics in found])


def instructions(kit: Kit, row: str, iterations: Sequence[Iteration]) -> Iterator[Cell]:
    """IFEval."""
    asked = LmEval(ifeval_file=str(kit.source("ifeval.jsonl")), limit=_limit(kit, 541))
    yield from _cells(row, INSTRUCTIONS, [metrics for _, metrics in measured(kit, "ifeval", iterations, [asked])])


def code(kit: Kit, row: str, iterations: Sequence[Iteration]) -> Iterator[Cell]:
    """HumanEval, HumanEval+ and MBPP; runs what the models write."""
    if not kit.unsafe_run_code:
        raise UserError("this table runs code that a model wrote; where you want that, say --unsafe_run_code")
    humaneval, plus, mbpp = (str(kit.source(name)) for name in CODE_NEEDS)
    asked = Code(humaneval, plus, mbpp, unsafe_run_code=True, chat=True, limit=_limit(kit, 500))
    yield from _cells(row, CODE, [metrics for _, metrics in measured(kit, "code", iterations, [asked])])


def knowledge(kit: Kit, row: str, iterations: Sequence[Iteration]) -> Iterator[Cell]:
    """TriviaQA and SQuAD 2."""
    file = kit.data / KNOWLEDGE_NEEDS[0]
    tasks = (f"triviaqa={file}" if file.exists() else "triviaqa", *(("squadv2",) if kit.scale.share >= 1 else ()))
    asked = LmEval(tasks=tasks, limit=_limit(kit, 0))
    yield from _cells(row, KNOWLEDGE, [metrics for _, metrics in measured(kit, "knowledge", iterations, [asked])])


def _limit(kit: Kit, most: int) -> int:
    """Of the rows of a benchmark; 0: all."""
    return kit.scale.rows(most, 8) if kit.scale.share < 1 else 0


def _cells(row: str, columns: Sequence[Column], repeats: Sequence[Mapping[str, Metric]]) -> Iterator[Cell]:
    """A figure that a run does not have (a judge that rated nothing) has no cell."""
    for column in columns:
        metrics = [each[column.metric] for each in repeats if column.metric in each]
        if metrics and all(each.outcomes for each in metrics):
            yield cell(row, column.name, metrics, factor=column.factor)
        elif metrics:  # no mean over prompts: of several random seeds only their mean is told
            times = column.factor or 1.0
            low, high = (metrics[0].low, metrics[0].high) if len(metrics) == 1 else (math.nan, math.nan)
            value = fmean(each.value for each in metrics)
            yield Cell(row, column.name, times * value, times * low, times * high, metrics[0].n, len(metrics))
