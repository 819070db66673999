"""ISARA as published, value by value, for comparison."""

from __future__ import annotations

from selfalign.encoders import Hashed, HiddenState, SentenceEncoder
from selfalign.engines import HF, OpenAI, OpenVINO, Scripted
from selfalign.evaluators import HeldOut, Refusal
from selfalign.filters import Exact, Length, Novelty, Substring
from selfalign.proposers import FewShot
from selfalign.recipe import Recipe, StartFrom, TrainOn
from selfalign.retrievers import Knn
from selfalign.text import ISARA_MARKERS
from selfalign.trainers import SFT, NullTrainer
from selfalign.types import Format, Sampling

PUBLISHED_TRAINING = SFT(
    learning_rate=2e-5,
    epochs=1,
    batch_size=32,
    micro_batch=4,
    schedule="cosine",
    warmup=0.03,
    weight_decay=0.0,
    max_grad_norm=1.0,
    adam_beta1=0.9,
    adam_beta2=0.95,
    max_length=2048,
)
"""The trainer of the authors' scripts: effective batch 32 in micro-batches of 4."""


def isara_paper(
    *,
    rounds: int = 2,
    per_round: int = 512,
    demonstrations: int = 8,
    max_overlap: float = 0.7,
    min_yield: float = 0.0,
    seed_weight: float | None = None,
    start_from: StartFrom = "previous",
    train_on: TrainOn = "latest",
    learning_rate_decay: float = 0.5,
    format: Format = "isara",
    seed: int = 42,
    prompt_sampling: Sampling = Sampling(
        max_tokens=200,
        beams=5,
        repetition_penalty=1.05,
        no_repeat_ngram=10,
        length_penalty=2.0,
        length_decay=(15, 1.6),
        stop=ISARA_MARKERS,
    ),
    sampling: Sampling = Sampling(
        max_tokens=100,
        beams=5,
        repetition_penalty=1.2,
        no_repeat_ngram=10,
        length_penalty=1.0,
        length_decay=(30, 1.05),
        stop=ISARA_MARKERS,
    ),
    engine: HF | OpenVINO | OpenAI | Scripted = HF(batch_size=4),
    encoder: SentenceEncoder | HiddenState | Hashed = SentenceEncoder(),
    trainer: SFT | NullTrainer = PUBLISHED_TRAINING,
) -> Recipe:
    """ISARA with every value of the paper and of its authors' scripts (arXiv 2401.06785), faults included.

    Random demonstrations for questions, exact nearest neighbours for answers, beam sampling with their penalties, their four
    filters (novelty against the demonstrations of the same prompt only), full fine-tuning on D0 + D_k that goes on from the
    last model at half the learning rate, a fixed number of rounds. Known deviations: the sentence encoder is a local one
    (theirs is a commercial embedding service); the space before an answer is the same in demonstrations and in training
    (theirs differ); demonstrations are left out from the last one on when a prompt outgrows the model's window (theirs stops
    adding at 2,000 tokens for questions and cuts the prompt at 2,048 for answers); a question the model left empty is dropped
    before it is answered; weights are trained in fp32 (theirs in bf16 under ZeRO-2).

    Args:
        rounds: K; the paper reports 2.
        per_round: N, questions generated per round.
        demonstrations: C; 8, and 6 for AlpacaEval. One from each generated round, the rest seeds.
        max_overlap: ROUGE-L of a question with its own prompt's questions above which it is dropped.
        min_yield: α, stop when fewer than min_yield·per_round survive. In the paper's algorithm, not in the scripts: 0.
        seed_weight: γ, the weight of D0 against D_k. In the paper's loss, plain concatenation in the scripts: null.
        start_from: the scripts go on from the last model.
        train_on: the scripts train on D0 and the newest D_k only.
        learning_rate_decay: the scripts halve the learning rate each round.
        format: theirs is a plain text layout with markers.
        seed: the random seed of the run; theirs is 42.
        prompt_sampling: how questions are decoded.
        sampling: how answers are decoded.
        engine: what runs the model; theirs generates in batches of 3 or 4.
        encoder: what embeds the questions.
        trainer: what trains; effective batch 32 in micro-batches of 4.
    """
    evaluation = Sampling(max_tokens=200, temperature=0.0)
    return Recipe(
        name="isara_paper",
        engine=engine,
        encoder=encoder,
        proposer=FewShot(demonstrations=demonstrations, sampling=prompt_sampling),
        retriever=Knn(demonstrations=demonstrations),
        sampling=sampling,
        trainer=trainer,
        filters=(Exact(), Novelty(max_overlap=max_overlap, against="demonstrations", unicode=False), Length(), Substring()),
        evaluators=(Refusal(sampling=evaluation), HeldOut(sampling=evaluation)),
        rounds=rounds,
        per_round=per_round,
        min_yield=min_yield,
        seed_weight=seed_weight,
        start_from=start_from,
        train_on=train_on,
        learning_rate_decay=learning_rate_decay,
        format=format,
        seed=seed,
    )
