"""What a metric is and which side of it is better, in the words that stand under its figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfalign.proof.diversity import OF_THE_JUDGES, SATURATION, SECOND_TURN

HELD_OUT = {
    "expected": "share of answers that are as declared",
    "expected_unjudged": "checks without a verdict, which count as failed",
    "usual_length": "share of answers about as long as the seeds'",
    "in_language": "share of answers in the seeds' language",
    "refusal": "share of the prompts to refuse that are refused",
    "over_refusal": "share of the prompts to answer that are refused",
    "balance": "refusal minus over refusal",
    "decision_auc": "how often refusing is likelier for a prompt to refuse than one to answer; chance 50%",
    "matched_refusal": "share of prompts to refuse told apart where a given share of those to answer passes",
    "finished": "share of answers ended by the model, at the end of a sentence",
    "response_words": "mean words of an answer",
    "log_likelihood": "of the reference answers: mean nats per token",
    "second_turn_finished": "share of such answers to prompts with earlier turns",
    "second_turn_words": "mean words of an answer to a prompt with earlier turns",
    "second_turn_log_likelihood": "of the reference answers to prompts with earlier turns: mean nats per token",
    "guard_knowledge": "share of simple English questions answered right: what training may have cost",
    "guard_form": "share of English instructions followed in form: what training may have cost",
    "guard_answered": "share of harmless English requests that are answered: what training may have cost",
    "harmfulness": "share of judged answers that the classifier flags",
    "harmfulness_unjudged": "share of prompts without a verdict of the classifier",
    "truthfulness_diff": "ROUGE-L with a true answer less that with a false one, in points",
    "truthfulness_max": "best ROUGE-L with a true answer, in points",
    "truthfulness_acc": "share of answers nearer to a true one than to any false one",
    "truthfulness_words": "mean words of an answer",
    "truthfulness_empty": "share of questions without an answer",
    "mc1": "share of questions whose best answer is likelier than every false one",
    "mc2": "mean probability of the true answers",
    "win_rate": "mean preference for the model's answer over the reference",
    "win_rate_strict": "share of prompts that the model's answer wins",
    "win_rate_ties": "share of prompts that end in a tie",
    "win_rate_length_controlled": "win rate if answers were as long as the references",
    "win_rate_consistency": "share of prompts judged alike in both orders",
    "win_rate_constant": "win rate of one and the same answer to everything: a control of the judge",
    "win_rate_unjudged": "share of prompts without a verdict",
    "win_rate_flaws": "how much speaks against the judge: above 0, do not trust it",
    "mt_bench": "mean rating of an answer, 1 to 10, both turns",
    "mt_bench_turn_1": "mean rating of first answers, 1 to 10",
    "mt_bench_turn_2": "mean rating of second answers, 1 to 10",
    "mt_bench_unrated": "share of answers without a rating by the judge",
    "mt_bench_cut": "share of answers that ran into max_tokens",
    "mt_bench_empty": "share of answers that say nothing",
    "ifeval:prompt_strict": "share of prompts with all instructions followed",
    "ifeval:prompt_loose": "share of prompts with all instructions followed, marks forgiven",
    "ifeval:inst_strict": "share of instructions followed",
    "ifeval:inst_loose": "share of instructions followed, marks forgiven",
    "ifeval:unscored": "share of prompts with an instruction that could not be checked",
    "ifeval:cut": "share of answers that ran into max_tokens",
}
GUARDS = {
    "kept_mean_words": "mean words of a response",
    "kept_median_words": "median words of a response",
    "kept_very_short": "share of responses of three words or fewer",
    "diversity_repeats": "share of prompts that stand word for word among earlier ones",
    "diversity_distinct_2_prompts": "share of different word pairs among 200 of the prompts",
    "diversity_distinct_2_responses": "share of different word pairs among 200 of the responses",
    "diversity_spread": "mean distance between the embeddings of the prompts",
    "diversity_far_from_shown": "share of prompts far from every example that their answers were shown",
    "overlap_exact": "examples that ask the same as a prompt of the test",
    "overlap_near": "examples that ask nearly the same as a prompt of the test",
    "alarms": "collapse alarms that went off",
    "validation_log_likelihood": "of the validation seeds' responses: mean nats per token",
    "validation_change": "against the best round before, in nats per token",
}
JUDGES = {
    "auc": "share of pairs in which a seed scores above a spoiled one; 0.5 is chance",
    "auc_swapped": "AUC against seeds with another one's response; 0.5 is chance",
    "auc_cut": "AUC against seeds cut in half; 0.5 is chance",
    "auc_negated": "AUC against seeds turned into their opposite; 0.5 is chance",
    "auc_repeated": "AUC against seeds that stand three times over; 0.5 is chance",
    "auc_off_topic": "AUC against answers about something else; 0.5 is chance",
    "entropy": "of its scores, in bits; 0 is one score for all",
    "repeatability": "share of its scores' variance that is the texts' own",
    "length_bias": "rank correlation of its score with the words of a seed; 0 is none",
    "sway": "mean change of its score where a text asks for a 10; 0 is none",
    "position_bias": "mean change of its score with the examples in the opposite order; 0 is none",
    "saturation": "share of texts at its most common score",
    "unparsed": "share of texts without a score",
    "flagged": "share of texts that ask for a 10 and are flagged",
}
"""By what their names end in, behind that of the judge."""
TASKS = {
    "acc": "share of questions whose right answer is the likeliest",
    "acc_norm": "share of questions whose right answer is the likeliest for its length",
    "pass@1": "share of problems whose first program passes all tests",
    "stopped": "share of programs that ran out of time or memory",
    "exact_match": "share of answers that are the right one, word for word",
    "cut": "share of questions to which an answer ran into its length",
    "word_perplexity": "perplexity of its texts, per word",
    "byte_perplexity": "perplexity of its texts, per byte",
    "bits_per_byte": "bits per byte of its texts",
}
"""Of lm-evaluation-harness's tasks, by what stands behind the task's name; others are shown by their names."""
SIDES = {"higher": "higher is better", "lower": "lower is better", "neither": "no side is better"}
ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


def meaning(name: str) -> str:
    """A metric in a line; "" for one that this package does not know."""
    if name.startswith(OF_THE_JUDGES):
        found = max((end for end in JUDGES if name.endswith(f"_{end}")), key=len, default="")
        return JUDGES.get(found, "")
    if name.startswith(SATURATION):
        return "share of scored examples at the score's highest value"
    if name.startswith("harmfulness:"):
        return "share of judged answers that the classifier flags so"
    if name.startswith("expected:"):
        return "share of answers that are as this check expects"
    if name.startswith("mt_bench_turn_") and ":" in name:
        turn, _, category = name.partition(":")
        return f"{HELD_OUT[turn]}, questions of {category}"
    first = name.replace(f"_{SECOND_TURN}", "_", 1)
    known = HELD_OUT.get(name) or GUARDS.get(first, "")
    if ":" in name and not known:
        task, metric, *read = name.split(":")
        return f"{TASKS.get(metric, metric)}, of the task {task}" + "".join(f", answers read by {each}" for each in read)
    return f"{known}, second turns alone" if known and first != name and name not in HELD_OUT else known


def label(name: str, metric: Mapping[str, Any]) -> str:
    """What a figure of this metric says, and which side is better; `metric` as `metric_table` or `study.json` has it."""
    text = "; ".join(part for part in (meaning(name), SIDES[metric["better"]]) if part)
    return f"{text[0].upper()}{text[1:]}"
