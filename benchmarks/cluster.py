"""What models of 1B to 70B take: memory by the formula of `trainers/_memory.py`, and rough hours by one that stands below.

    python benchmarks/cluster.py [--rows 8] [--tokens 300] [--read 700] [--written 75] [--kept 0.5] [--row 100] [--epochs 2]

No model is read: shapes are those of published configurations (Llama 3.2 1B, Llama 3.1 8B and 70B, Qwen 2.5 32B), biases and
norms left out. GB are 10^9 bytes. --rows of --tokens tokens are computed at once, half of their tokens learned, products in 16
bits, LoRA of rank 16 on all linear layers.

    seconds = tokens * operations for each token / (peak * utilisation), over all GPUs

A model of n weights takes 2n operations for a token that it reads or writes, and 6n for one that it is trained on: all weights,
or an adapter with activations computed twice (Kaplan et al., arXiv 2001.08361; attention left out). A candidate reads --read
tokens and writes --written, prompt and answer together; the share --kept of them is trained on --epochs times, --row tokens each.
Peaks are the vendor's for dense bf16 products. The utilisations are ASSUMED, and measured
nowhere here: 40 % for reading and training, 5 % for writing.
"""

from __future__ import annotations

import argparse

from selfalign.models.sizes import Sizes
from selfalign.trainers._memory import METHODS, USABLE, Load, need

SHAPES = {
    # hidden, inner, layers, width of keys and of values, words, whether the output layer is that of the embeddings
    "1B": (2048, 8192, 16, 512, 128256, True),
    "8B": (4096, 14336, 32, 1024, 128256, False),
    "32B": (5120, 27648, 64, 1024, 152064, False),
    "70B": (8192, 28672, 80, 1024, 128256, False),
}
CARDS = (24, 48, 80, 141)
"""GB of GPUs."""
PEAKS = {"A100": 312e12, "H100": 989e12}
READING, WRITING, TRAINING = 0.4, 0.05, 0.4
"""Utilisations, assumed."""
COUNTS = (4, 5, 6)
"""Candidates, as powers of ten."""


def sizes(name: str) -> Sizes:
    hidden, inner, layers, shared, words, tied = SHAPES[name]
    block = {"q": (hidden, hidden), "k": (shared, hidden), "v": (shared, hidden), "o": (hidden, hidden)}
    block |= {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    matrices = {f"layers.{layer}.{each}": sides for layer in range(layers) for each, sides in block.items()}
    count = sum(one * other for one, other in matrices.values()) + (1 if tied else 2) * words * hidden
    return Sizes(count, matrices, layers, hidden, inner, words, None)


def memory(options: argparse.Namespace) -> None:
    load = Load(options.rows, options.tokens, options.tokens // 2, True, False, False, 16, "all-linear")
    print(f"To train, {options.rows} rows of {options.tokens} tokens at once:\n")
    print("| model | method | weights | gradients, moments | activations kept | in all | computed twice | in all | fits |")
    print(f"|{'---|' * 9}")
    for name in SHAPES:
        for method in METHODS:
            kept, twice = (need(method, each, sizes(name), load) for each in (False, True))
            learns = kept.gradients + kept.moments
            fits = ", ".join(str(card) for card in CARDS if min(kept.total, twice.total) <= USABLE * card * 1e9) or "none alone"
            numbers = (kept.weights, learns, kept.activations, kept.total, twice.activations, twice.total)
            print(f"| {name} | {method} | {' | '.join(f'{each / 1e9:.1f}' for each in numbers)} | {fits} |")
    print("\nTo generate, 16 bits:\n")
    print("| model | weights | cache for 1,000 tokens | with 64 rows of 1,000 tokens |\n|---|---|---|---|")
    for name, (_, _, layers, shared, _, _) in SHAPES.items():
        weights, cache = 2 * sizes(name).weights / 1e9, 1000 * 4 * layers * shared / 1e9
        print(f"| {name} | {weights:.1f} | {cache:.2f} | {weights + 64 * cache:.1f} |")


def hours(count: int, name: str, peak: float, options: argparse.Namespace) -> tuple[float, float]:
    """(generation, training) of `count` candidates on one GPU."""
    n = sizes(name).weights
    generation = 2 * n * count * (options.read / READING + options.written / WRITING) / peak
    training = 6 * n * count * options.kept * options.row * options.epochs / (peak * TRAINING)
    return generation / 3600, training / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    counts = {"rows": 8, "tokens": 300, "read": 700, "written": 75, "row": 100, "epochs": 2}
    for name, value in {**counts, "kept": 0.5}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args()
    memory(options)
    print("\nHours of one GPU, generation + training:\n")
    heads = [f"10^{count}, {card}" for card in PEAKS for count in COUNTS]
    print(f"| model | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for name in SHAPES:
        found = [hours(10**count, name, peak, options) for peak in PEAKS.values() for count in COUNTS]
        cells = [" + ".join(f"{each:,.0f}" if each >= 10 else f"{each:.2g}" for each in both) for both in found]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
