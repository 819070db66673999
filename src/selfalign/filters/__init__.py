"""Filters: which candidates stay, each drop with a named rule and its evidence."""

from selfalign.filters._shared import published
from selfalign.filters.answers import AnswerChoices, CopiedInput, HanCharacters, NextTurns, NoiseWords, Substring
from selfalign.filters.category import CategoryAgreement
from selfalign.filters.counts import AtMost, PerPrompt
from selfalign.filters.expected import Expected
from selfalign.filters.form import AnswerLike, EmptyResponse, Finished, LeakedMarkers, Length, LengthRange, Repetition
from selfalign.filters.language import Language
from selfalign.filters.novelty import Exact, NearDuplicates, Novelty
from selfalign.filters.preference import Differs
from selfalign.filters.score import OnePerCluster, Percentile, RisingThreshold, Threshold
from selfalign.filters.tasks import Blacklist, LeftoverLabels, Links, Placeholders, RepeatedInput, TaskLength, TaskStart

__all__ = [
    "AnswerChoices", "AnswerLike", "AtMost", "Blacklist", "CategoryAgreement", "CopiedInput", "Differs", "EmptyResponse", "Exact",
    "Expected", "Finished", "HanCharacters", "Language", "LeakedMarkers", "LeftoverLabels", "Length", "LengthRange", "Links",
    "NearDuplicates", "NextTurns", "NoiseWords", "Novelty", "OnePerCluster", "PerPrompt", "Percentile", "Placeholders",
    "RepeatedInput", "Repetition", "RisingThreshold", "Substring", "TaskLength", "TaskStart", "Threshold", "published",
]  # fmt: skip
