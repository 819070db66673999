"""ISARA as published, value by value, for comparison."""

from __future__ import annotations

from selfalign.engines import HF
from selfalign.filters import Exact, Length, Novelty, Substring, published
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.recipes.baselines import PUBLISHED_EVALUATION, PUBLISHED_TRAINING
from selfalign.retrievers import Knn
from selfalign.text import ISARA_MARKERS
from selfalign.types import Sampling


def isara_paper(*, demonstrations: int = 8) -> Recipe:
    """ISARA with every value of the paper and of its authors' scripts (arXiv 2401.06785), faults included.

    Random demonstrations for questions, exact nearest neighbours for answers, beam sampling with their penalties, their four
    filters (novelty against the demonstrations of the same prompt only), full fine-tuning on D0 + D_k that goes on from the
    last model at half the learning rate, a fixed number of rounds. Known deviations: the sentence encoder is a local one
    (theirs is a commercial embedding service); the space before an answer is the same in demonstrations and in training
    (theirs differ); demonstrations are left out from the last one on when a prompt outgrows the model's window (theirs stops
    adding at 2,000 tokens for questions and cuts the prompt at 2,048 for answers); a question the model left empty is dropped
    before it is answered; weights are trained in fp32 (theirs in bf16 under ZeRO-2).

    The values: K = 2 rounds of N = 512 questions, no least yield (α is in the paper's algorithm, not in the scripts), D0 and the
    newest D_k concatenated (γ is in the paper's loss, not in the scripts), random seed 42, effective batch 32 in micro-batches of
    4, generation in batches of 4 (theirs 3 or 4).

    Args:
        demonstrations: C; 8, and 6 for AlpacaEval. One from each generated round, the rest seeds.
    """
    question = Sampling(
        max_tokens=200,
        beams=5,
        repetition_penalty=1.05,
        no_repeat_ngram=10,
        length_penalty=2.0,
        length_decay=(15, 1.6),
        stop=ISARA_MARKERS,
    )
    answer = Sampling(
        max_tokens=100,
        beams=5,
        repetition_penalty=1.2,
        no_repeat_ngram=10,
        length_penalty=1.0,
        length_decay=(30, 1.05),
        stop=ISARA_MARKERS,
    )
    return Recipe(
        name="isara_paper",
        engine=HF(batch_size=4),
        proposer=FewShot(demonstrations=demonstrations, sampling=question),
        retriever=Knn(demonstrations=demonstrations),
        sampling=answer,
        trainer=PUBLISHED_TRAINING,
        filters=published(Exact(), Novelty(max_overlap=0.7, against="demonstrations", unicode=False), Length(), Substring()),
        eval_sampling=PUBLISHED_EVALUATION,
        per_round=512,
        ignore_seed_rules=True,
        min_yield=0.0,
        learning_rate_decay=0.5,
        format="isara",
        seed=42,
    )
