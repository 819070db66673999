from __future__ import annotations

import random

import pytest
from rouge_score import rouge_scorer

from selfalign.text import (
    count_words,
    cut_at_markers,
    is_finished,
    longest_repeat,
    normalise,
    rouge_l,
    rouge_l_growing,
    rouge_l_matrix,
    rouge_l_max,
    words,
)

PIECES = ("the", "The", "cat's", "won't", "x_1", "42", "3.14", "e-mail", "ÉTÉ", "straße", "мир", "Мир", "你好", "日本語", "ไทย",
          "K", "İ", "ﬁ", "½", "😀", "́", "\u200b", "-", "--", "\n", "\t", "", "a", "b", "c", "d")  # fmt: skip


def texts(count: int, seed: int, longest: int = 18) -> list[str]:
    source = random.Random(seed)
    return [source.choice((" ", "  ", "")).join(source.choices(PIECES, k=source.randint(0, longest))) for _ in range(count)]


def test_rouge_l_equals_rouge_score() -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    left, right = texts(10_000, 1), texts(10_000, 2)
    for a, b in zip(left, right, strict=True):
        assert rouge_l(a, b) == pytest.approx(scorer.score(a, b)["rougeL"].fmeasure, abs=1e-9)


def test_matrix_and_max_agree_with_single_pairs() -> None:
    left, right = texts(30, 3), texts(40, 4)
    matrix = rouge_l_matrix(left, right)
    assert matrix.shape == (30, 40)
    assert matrix.tolist() == [[rouge_l(a, b) for b in right] for a in left]
    for row, (score, position) in zip(matrix.tolist(), rouge_l_max(left, right), strict=True):
        assert (score, position) == (max(row), row.index(max(row)))


def test_nothing_to_compare_with() -> None:
    assert rouge_l_max(["a b"], []) == [(0.0, -1)]
    assert rouge_l_max([], ["a b"]) == []
    assert rouge_l_matrix([], ["a"]).shape == (0, 1)


@pytest.mark.parametrize("unicode", [False, True])
def test_growing_equals_one_after_the_other(unicode: bool) -> None:
    # Several blocks, a pool, and copies of earlier texts, so that hits fall everywhere.
    references = texts(60, 5)
    candidates = texts(600, 6) + references[:20] + texts(600, 6)[200:]
    place, pool, expected = list(range(60)), list(references), []
    for number, text in enumerate(candidates):
        ((score, position),) = rouge_l_max([text], pool, unicode=unicode)
        expected.append((score, place[position]))
        if score <= 0.6:
            pool.append(text)
            place.append(60 + number)
    assert rouge_l_growing(candidates, references, 0.6, unicode=unicode) == expected
    assert any(position >= 60 + 256 for _, position in expected)


def test_the_first_among_equals_in_a_large_pool() -> None:
    references = ["a b"] * 40_000
    assert rouge_l_max(["a b"], references) == [(1.0, 0)]
    references[:35_000] = ["a c"] * 35_000
    assert rouge_l_max(["a b"], references) == [(1.0, 35_000)]


def test_unicode_words_see_every_script() -> None:
    assert words("Мир и труд", unicode=True) == ["мир", "и", "труд"]
    assert words("你好 world", unicode=True) == ["你", "好", "world"]
    assert words("Straße x_1", unicode=True) == ["strasse", "x", "1"]
    assert rouge_l("Как почистить старый стол?", "как почистить старый стол", unicode=True) == 1.0
    assert rouge_l("如何清洁旧桌子", "如何清洁旧椅子", unicode=True) == pytest.approx(6 / 7)
    assert rouge_l("Как почистить стол?", "Как почистить стол?") == 0.0


def test_both_tokenisers_agree_on_ascii() -> None:
    source = random.Random(7)
    for _ in range(500):
        text = "".join(chr(source.randrange(128)) for _ in range(40))
        assert words(text) == words(text, unicode=True)


@pytest.mark.parametrize(
    ("text", "number"), [("", 0), (" one  two\nthree-four ", 3), ("x = 1", 3), ("如何清洁桌子?", 7), ("use 桌子 now", 4)]
)
def test_count_words(text: str, number: int) -> None:
    assert count_words(text) == number


def test_normalise() -> None:
    assert normalise("  How\tDO  I\n") == normalise("how do i") == "how do i"


@pytest.mark.parametrize(
    "text",
    ["Done.", "Really?", 'He said "stop."', "Yes!)", "well…", "好的。", "本当？」", "**Bold.**", "```py\nx = 1\n```", 
     "Wait...  \n", "It costs 3.50.", "हाँ।"],
)  # fmt: skip
def test_finished(text: str) -> None:
    assert is_finished(text)


@pytest.mark.parametrize(
    "text", ["", "  ", "and then", "First,", "as follows:", "1. Wash it.\n2.", "...", "```py\nx = 1.", "```\na\n```\n```", '"']
)
def test_unfinished(text: str) -> None:
    assert not is_finished(text)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("How are you? USER: hi", "How are you?"),
        (" an answer \n\\end{x} END", "an answer"),
        ("BEGINNING", ""),
        ("End of the day, user", "End of the day, user"),
        ("", ""),
    ],
)
def test_cut_at_isara_markers(raw: str, clean: str) -> None:
    assert cut_at_markers(raw) == clean


def test_longest_repeat() -> None:
    assert longest_repeat("a b c") == (0.0, "", 0)
    assert longest_repeat("a b c d e") == (0.0, "a b c d", 1)
    share, gram, times = longest_repeat("no no no no no no no")
    assert (share, gram, times) == (0.75, "no no no no", 4)
