"""What each rule that drops candidates means, in a line, and its colour: the same in every run, whatever else was dropped."""

from __future__ import annotations

KEPT = 0
OTHER = 7
"""The colours of what is kept and of rules that this package does not know."""
FAMILIES = ("kept", "unfinished or too long", "form", "copied", "not new", "category", "score", "other")
"""By colour (classes c0 … c7 of the style sheet): what the rules of one colour have in common."""
GROUPS = (
    (1, ("cut_off", "unfinished"), "the text ran into max_tokens, or does not end as a sentence"),
    (1, ("no_room",), "there was no room for it in the model's window"),
    (1, ("not_renderable",), "the chat template cannot write it"),
    (1, ("empty_prompt", "empty_response"), "the model wrote nothing"),
    (1, ("prompt_short", "prompt_long", "response_short", "response_long"), "its words are outside the limits"),
    (1, ("prompt_length", "response_length"), "its length is far from the seeds'"),
    (1, ("instruction_short", "instruction_long"), "the instruction's words are outside the limits"),
    (2, ("marker",), "it has a marker of a conversation format that no seed has"),
    (2, ("control_character",), "it has a control character that no seed has"),
    (2, ("other_language",), "it is in none of the seeds' languages"),
    (2, ("han_character",), "the response has a Chinese character"),
    (
        2,
        ("prompt_like_answer",),
        "the prompt has the words that most of the seeds' responses end or begin with, and no prompt has",
    ),
    (
        2,
        ("role_line", "asks_back", "question_paragraph"),
        "the response goes on as a conversation, or asks in place of answering",
    ),
    (2, ("answer_choices", "option_marker"), "the response has choices to pick from"),
    (2, ("noise",), "the response has a refusal or a remnant of the request that no seed has"),
    (2, ("starts_with_punctuation", "starts_outside_ascii", "starts_with_phrase"), "it begins as no instruction does"),
    (2, ("expected:…",), "the response is not as declared (--expect)"),
    (2, ("expected_unjudged",), "a declared check came to no verdict on the response"),
    (2, ("blacklisted",), "the instruction has a listed word, such as those for pictures"),
    (2, ("placeholder", "leftover_label", "link"), "it has a placeholder, a label of the request or a link"),
    (3, ("prompt_in_response", "response_in_prompt"), "one of the two repeats the other"),
    (3, ("response_is_input", "input_in_instruction"), "the response, or the instruction, hands the input back"),
    (3, ("repetition",), "the response repeats itself"),
    (4, ("duplicate",), "the prompt is there already, word for word"),
    (4, ("validation_seed",), "its prompt is a validation seed's, which chooses the round"),
    (4, ("not_novel",), "its words are too like those of one there is (ROUGE-L)"),
    (4, ("near_duplicate",), "its meaning is too like that of one there is, by embedding"),
    (4, ("same_answer", "same_cluster", "same_as_preferred"), "another one like it stands in its place"),
    (5, ("category_mismatch",), "the nearest seeds of the response all belong to another category than the one aimed at"),
    (5, ("prompt_of_other_category",), "the nearest seeds of the prompt all belong to another category than the one aimed at"),
    (6, ("low_…", "high_…"), "its score is on the wrong side of what is kept"),
    (6, ("unparsed", "unscored"), "its score is unreadable or missing"),
    (6, ("judge_addressed",), "the text speaks to the judge"),
    (OTHER, ("reviewed",), "a person rejected it, or what it follows on"),
    (OTHER, ("enough_answers", "surplus"), "there are as many as were asked for"),
)
"""(colour, rules, why). docs/troubleshooting.md has the same lines."""
_KNOWN = {rule: (colour, why) for colour, rules, why in GROUPS for rule in rules}


def why(rule: str) -> str:
    """What the rule means; "" for one of one's own."""
    return _found(rule)[1]


def colour(rule: str) -> int:
    return _found(rule)[0]


def _found(rule: str) -> tuple[int, str]:
    for beginning in ("low_", "high_", "expected:"):  # low_judge_quality: of a score that has any name
        if rule.startswith(beginning):
            return _KNOWN[f"{beginning}…"]
    return _KNOWN.get(rule, (OTHER, ""))
