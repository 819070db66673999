"""Recipes: compositions of parts over the one loop, and the baselines that they are measured against."""

from selfalign.recipes.baselines import copy_nearest, copy_random, icl_knn, icl_random, pretrained, sft, sft_paper
from selfalign.recipes.isara import isara, one_shot
from selfalign.recipes.isara_paper import isara_paper
from selfalign.recipes.isheep import isheep
from selfalign.recipes.isheep_paper import isheep_paper
from selfalign.recipes.preference import contrast, ditto, dpo
from selfalign.recipes.rest import rest, rest_em
from selfalign.recipes.self_distill import self_distill
from selfalign.recipes.self_guide import self_guide
from selfalign.recipes.self_instruct import self_instruct
from selfalign.recipes.self_train import self_train

__all__ = [
    "contrast", "copy_nearest", "copy_random", "ditto", "dpo", "icl_knn", "icl_random", "isara", "isara_paper", "isheep",
    "isheep_paper", "one_shot", "pretrained", "rest", "rest_em", "self_distill", "self_guide", "self_instruct", "self_train",
    "sft", "sft_paper",
]  # fmt: skip
