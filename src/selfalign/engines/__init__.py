"""Engines: ways to run models."""

from selfalign.engines.hf import HF
from selfalign.engines.openai import OpenAI
from selfalign.engines.openvino import OpenVINO
from selfalign.engines.ray import Ray
from selfalign.engines.scripted import Scripted
from selfalign.engines.vllm import VLLM

__all__ = ["HF", "VLLM", "OpenAI", "OpenVINO", "Ray", "Scripted"]
