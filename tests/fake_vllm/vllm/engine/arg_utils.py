import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm import tell


class EngineArgs:
    def __init__(self, **arguments: Any) -> None:
        tell(do="check", arguments=arguments)
        self.arguments = arguments

    def create_engine_config(self) -> Any:
        kind = json.loads((Path(self.arguments["model"]) / "config.json").read_text("utf-8"))["architectures"][0]
        if kind not in ("LlamaForCausalLM", "OPTForCausalLM"):
            why = f"Value error, Model architectures ['{kind}'] are not supported for now. Supported architectures: dict_keys()"
            raise ValueError(f"1 validation error for ModelConfig\n  {why} [type=value_error, input_value=ArgsKwargs((), {{}})]")
        model = SimpleNamespace(max_model_len=self.arguments["max_model_len"], dtype="torch.float32")
        return SimpleNamespace(model_config=model, lora_config=None)
