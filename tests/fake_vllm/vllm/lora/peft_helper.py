import json
from pathlib import Path
from typing import Any


class PEFTHelper:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    @classmethod
    def from_local_dir(cls, path: str, most: int) -> "PEFTHelper":
        return cls(json.loads((Path(path) / "adapter_config.json").read_text("utf-8")))

    def validate_legal(self, lora_config: Any) -> None:
        if self.config.get("use_dora"):
            raise ValueError("vLLM does not yet support DoRA.")
