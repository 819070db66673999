"""Cards: what a model or a data set is, where it came from and what is known against it, as the Hugging Face hub reads it.

Every figure and every limit follows from the record of the run. Text of models, seeds and files is hostile: in the front
matter it is one line written by a YAML library, in the body it is code.
"""

from selfalign.export.cards._facts import check_license
from selfalign.export.cards.data import data_card
from selfalign.export.cards.model import model_card

__all__ = ["check_license", "data_card", "model_card"]
