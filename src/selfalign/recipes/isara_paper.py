"""ISARA as published, value by value, for comparison."""

from __future__ import annotations

from dataclasses import replace

from selfalign.filters import Exact, Length, Novelty, Substring, published
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe
from selfalign.recipes.baselines import PUBLISHED_ENGINE, PUBLISHED_EVALUATION, PUBLISHED_TRAINING
from selfalign.retrievers import Knn, Uniform
from selfalign.text import ISARA_MARKERS
from selfalign.types import Sampling


def isara_paper(*, demonstrations: int = 8, retriever: Knn | Uniform = Knn()) -> Recipe:
    """ISARA with every value of the paper and of its authors' scripts (arXiv 2401.06785), faults included.

    Random demonstrations for questions, exact nearest neighbours for answers (D0's nearest first, then one of each D_i), beam
    sampling by the rules of transformers 4.31, texts cut at their markers when they are written, their four filters (novelty
    against the demonstrations of the same prompt only), full fine-tuning on D0 + D_k that goes on from the last model at half
    the learning rate, a fixed number of rounds. Known deviations:

    * The sentence encoder is a local one; theirs is a commercial service (text-embedding-ada-002).
    * The space before an answer is the same in demonstrations and in training; theirs differ.
    * A prompt that outgrows the model's window loses its last demonstrations; theirs stops adding at 2,000 tokens for questions
      and cuts the prompt at 2,048 for answers. A question left empty is dropped before it is answered.
    * Each prompt draws from a random stream of its own, and a batch's padding counts neither in a beam's length nor as a token
      to repeat; in theirs both depend on the batch.
    * The loss is the mean over the response tokens of an optimiser step; theirs the mean over micro-batches of 4 of their means,
      where a short answer's tokens count for more. Steps of an epoch are of equal size with seeds and generated pairs in the
      proportion of the whole; theirs come in one random order, and the last one is what is left over.
    * Rows of more than 2,048 tokens are dropped, not cut. Weights are trained in fp32; theirs in bf16 under ZeRO-2.

    The values: K = 2 rounds of N = 512 questions, no least yield (α is in the paper's algorithm, not in the scripts), D0 and the
    newest D_k concatenated (γ is in the paper's loss, not in the scripts), random seed 42, effective batch 32 in micro-batches of
    4. Eight prompts of five beams are written at once (theirs 3 or 4), which changes no text but by rounding in bf16: a 7B model
    keeps 40 rows of 2,048 tokens in 43 GB beside its 13 GB of weights; `--engine.batch_size 20` is four prompts.

    Args:
        demonstrations: C; 8, and 6 for AlpacaEval. One from each generated round, the rest seeds.
        retriever: what chooses the examples an answer is shown; Uniform is variant 4 of the scripts, random ones.
    """
    question = Sampling(
        max_tokens=200,
        top_k=50,
        beams=5,
        repetition_penalty=1.05,
        no_repeat_ngram=10,
        length_penalty=2.0,
        length_decay=(15, 1.6),
        rules="transformers-4.31",
        stop=ISARA_MARKERS,
    )
    answer = replace(question, max_tokens=100, repetition_penalty=1.2, length_penalty=1.0, length_decay=(30, 1.05))
    return Recipe(
        name="isara_paper",
        engine=PUBLISHED_ENGINE,
        proposer=FewShot(demonstrations=demonstrations, sampling=question),
        retriever=replace(retriever, demonstrations=demonstrations),
        sampling=answer,
        trainer=PUBLISHED_TRAINING,
        # Exact comes last: a question is a duplicate of what was kept, not of one that another rule dropped.
        filters=published(Novelty(max_overlap=0.7, against="demonstrations", unicode=False), Length(), Substring(), Exact()),
        eval_sampling=PUBLISHED_EVALUATION,
        per_round=512,
        ignore_seed_rules=True,
        min_yield=0.0,
        learning_rate_decay=0.5,
        format="isara",
        seed=42,
    )
