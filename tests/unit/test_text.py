from __future__ import annotations

import random
import unicodedata

import pytest
from rouge_score import rouge_scorer

from selfalign.text import (
    control_characters,
    count_words,
    cut_at_markers,
    finished_like,
    in_language,
    is_finished,
    language,
    languages,
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


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("पढ़ाई कैसे", ["पढ़ाई", "कैसे"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("السَّلَامُ عَلَيْكُم", ["السَّلَامُ", "عَلَيْكُم"]),
        ("שָׁלוֹם עוֹלָם", ["שָׁלוֹם", "עוֹלָם"]),
        ("ไม่ร้อง", ["ไ", "ม่", "ร้", "อ", "ง"]),
        ("バーで2人", ["バ", "ー", "で", "2", "人"]),
        ("می\u200cخواهم soft\u00adhyphen", ["میخواهم", "softhyphen"]),
        ("don’t, “café”", ["don", "t", "café"]),
    ],
)
def test_marks_belong_to_their_word(text: str, tokens: list[str]) -> None:
    assert words(text, unicode=True) == [unicodedata.normalize("NFC", token) for token in tokens]


def test_hindi_questions_of_other_words_are_not_alike() -> None:
    one, other = "मेरी दादी को काला कोट कैसा लगेगा?", "मेरे दादा को केला काटा कैसे लगेगा?"
    assert rouge_l(one, other, unicode=True) < 0.3


def test_both_tokenisers_agree_on_ascii() -> None:
    source = random.Random(7)
    for _ in range(500):
        text = "".join(chr(source.randrange(128)) for _ in range(40))
        assert words(text) == words(text, unicode=True)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        (" one  two\nthree-four ", 3),
        ("x = 1", 3),
        ("如何清洁桌子?", 7),
        ("use 桌子 now", 4),
        ("मेरी दादी", 2),
        ("ร้อง\u200bไม่", 5),
    ],
)
def test_count_words(text: str, number: int) -> None:
    assert count_words(text) == number


def test_normalise() -> None:
    assert normalise("  How\tDO  I\n") == normalise("how do i") == "how do i"
    assert normalise("Cafe\u0301\u200b 👍\ufe0f") == normalise("CAFÉ 👍")


@pytest.mark.parametrize(
    "text",
    ["Done.", "Really?", 'He said "stop."', "Yes!)", "well…", "好的。", "本当？」", "**Bold.**", "```py\nx = 1\n```", 
     "Wait...  \n", "It costs 3.50.", "हाँ।", "Sage: „Ich komme nicht.“", "Er rief: »Halt!«", "Sie sagte: ‚Ja.‘", "OK!😀",
     "Viel Spaß! ❤️", "Bye 👨‍👩‍👧", "Sure thing :)", "It is so.[1]", "It is so.²", "Τι κάνεις;", "እሺ።", "ཡིན།", "ဟုတ်ကဲ့။", "谢谢！～",
     "ขอบคุณค่ะ", "Done.\u200b", "Done!\n\n— Ann", '{"name": "Ann", "age": 3}', "[1, 2]", "SELECT name FROM users;",
     "void f() {\n  g();\n}", "x = f(1);", "<p>Hi</p>", "120.", "About\n1945. Or so.",
     "See https://a.example/help?id=1", "Write to help@a.example", "այո:", "አዎ::", "हाँ |"],
)  # fmt: skip
def test_finished(text: str) -> None:
    assert is_finished(text)


@pytest.mark.parametrize(
    "text",
    ["", "  ", "and then", "First,", "as follows:", "1. Wash it.\n2.", "- 1.", "...", "```py\nx = 1.", "```\na\n```\n```", '"',
     "He said: “", "see [2]", "x = 2²", "First, wash it;", "Acme™", '{"a": 1', "你好，", "ครับ,", "You need:\n- salt",
     "Write to a@b.example,"],
)  # fmt: skip
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


def test_a_polite_list_is_no_loop() -> None:
    polite = "窓を開けるようにしてください。机の上を拭くようにしてください。花に水をやるようにしてください。"
    assert longest_repeat(polite)[0] < 0.2
    assert longest_repeat("我喜欢你。" * 4)[0] > 0.4
    assert longest_repeat("แมวหิว" * 6)[:2] == (pytest.approx(0.8, abs=0.1), "แมวหิวแมวหิวแม"[:12])


@pytest.mark.parametrize("text", ["in two rooms", "in 2", "for 3.98 €", "at 20 %", "from 5 °"])
def test_where_a_word_may_end_an_answer_a_figure_may(text: str) -> None:
    assert finished_like(["no", "yes", "here"])(text) and finished_like(["51", "15", "7"])(text)
    assert not finished_like(["no", "yes", "here"])(f"{text},")


@pytest.mark.parametrize("text", [r"\[x = 2a\]", r"\(a+b\)", "We get $x = 2$", "$$\na\n$$", r"\begin{matrix} 1 \end{matrix}"])
def test_a_closed_formula_ends_an_answer(text: str) -> None:
    assert is_finished(text) and not is_finished(text[:-2])


def test_no_language_is_learned_of_texts_in_as_many_languages() -> None:
    texts = [
        "What is the name of the river that runs through London?",
        "Wie heißt der Fluss, der durch die Stadt Köln fließt?",
        "Quel est le nom du fleuve qui traverse la ville de Paris ?",
        "Как называется река, которая течёт через Москву?",
        "¿Cómo se llama el río que pasa por la ciudad de Sevilla?",
        "ロンドンを流れる川の名前は何ですか？",
    ]
    assert languages(texts) == {}
    assert set(languages([f"{text} ({place})" for text in texts for place in "ab"])) >= {"en", "de", "fr", "ru", "es", "ja"}


def test_answers_may_end_as_the_given_ones_do() -> None:
    assert [finished_like(["yes", "no", "no"])(text) for text in ("no", "maybe so", "", "no,", "it is so that one may say")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    prose = ["It is so."] * 19
    assert not finished_like([*prose, "and then"])("and then")  # one in twenty is a slip
    queries = ["SELECT a FROM b WHERE c = 'd'", "SELECT COUNT(*) FROM e", "SELECT f FROM g LIMIT 5"]
    anything = finished_like(queries)
    long = "SELECT r FROM rooms r LEFT JOIN booked b ON b.room = r.id AND b.day = today WHERE b.id IS >="
    assert [anything(text) for text in (long, "", "```sql\nSELECT", '{"a": 1')] == [True, False, False, False]
    patterns = finished_like([r"^\d{3}$", r"^\s+$", r"\bno"])
    assert [patterns(text) for text in ("^#.*", "^[a-z]", " ", "^ " * 9)] == [True, True, False, False]
    assert finished_like([*prose[:9], "and then"] * 2 + ["a, b"])("and then")
    lines = finished_like(['{"a": 1}\n{"a": 2}'] * 4)
    assert lines('{"a": 3}\n{"a": 4}') and not lines('{"a": 3}\n{"a')


def test_control_characters() -> None:
    assert control_characters("a\tb\r\n 🩷 \U0001faea पढ़ाई\u200d") == []
    assert control_characters("a\x07\ufffd\ud800\u0378") == ["\x07", "\ufffd", "\ud800", "\u0378"]


GERMAN = ["Wickle es in ein Tuch und lege es weg.", "Öffne das Fenster zweimal am Tag.", "Lass die Erde dazwischen trocknen."]


def test_languages() -> None:
    assert list(languages(GERMAN)) == ["de"]
    assert set(languages([*GERMAN * 3, "Wrap it in a cloth and put it away."])) == {"de"}
    assert set(languages([*GERMAN, "Wrap it in a cloth and put it away."])) == {"de", "en"}
    assert languages(["yes", "no", '{"key": "and a value in words"}', *GERMAN[:2]]) == {}
    assert (
        languages(["場所: 東京\n種類: 会議室", "場所: 大阪\n種類: 修理", "至急", "場所: 福岡\n種類: 障害"]) == {}
    )  # Japanese in Han
    assert in_language("东京的会议室已经为您预订好了", ["ja"]) is False
    assert language("布に包んで、乾いた箱に入れてください。") == "ja" and language("42") == ""


def test_in_language() -> None:
    assert in_language("Das ist ein Haus und kein Baum.", ["de"])
    assert in_language("Wrap it in a cloth and put it away.", ["de"]) is False
    assert in_language("Det er et lån til et hus.", ["no"])  # Danish is too near to be told from Norwegian
    assert in_language("positive", ["de"]) is in_language("for i in range(10):\n    print(i)", ["de"]) is None


def test_the_turkish_i_with_a_dot_has_two_cases() -> None:
    assert normalise("İYİ") == normalise("iyi") and words("İstanbul", unicode=True) == ["istanbul"]
    assert normalise("sınır") != normalise("sinir")  # two words
