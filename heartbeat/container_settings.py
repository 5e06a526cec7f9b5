"""Every setting of the serving container in one place: vLLM's options, checked before an endpoint is made.

AWS's vLLM image turns each environment variable SM_VLLM_X_Y into the option `--x-y`: `true` is a bare flag, `false`
leaves it out, a JSON list is one word an element, anything else is one word (aws/deep-learning-containers,
scripts/docker/vllm/sagemaker_args.py, read 2026-11). Options and their meaning are those of vLLM 0.30.0
(docs.vllm.ai, "Engine Arguments"); `make test-vllm` holds what is rendered here to vLLM's own parser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heartbeat.job import VLLM_LORA_RANKS, SettingError
from heartbeat.serving_plan import GPU_SHARE

BASE_MODEL_PATH = "/opt/ml/model"
"""Where SageMaker puts ModelDataSource."""
CHANNELS_PATH = "/opt/ml/additional-model-data-sources"
"""Where SageMaker puts AdditionalModelDataSources, each in a folder of its channel's name."""
BASE_NAME = "base"
"""The name under which requests ask the model without an adapter."""
CHAT_TEMPLATE = "chat_template.jinja"
"""The trainer leaves it beside the adapter: the base's own template words the tools otherwise."""
MAX_ADAPTERS = 5
"""SageMaker's limit of AdditionalModelDataSources (CreateModel, API reference)."""

_ADAPTER_NAME = re.compile(r"(?=.{1,32}$)[a-z0-9]+(-[a-z0-9]+)*")


def adapter_path(name: str) -> str:
    """Where the adapter of this name lies in the container: its channel is called as it is."""
    return f"{CHANNELS_PATH}/{name}"


def check_adapter_name(setting: str, value: object) -> str:
    """`value`, where it can name a channel, its folder and a request's `model`. Raises SettingError."""
    if not isinstance(value, str) or not _ADAPTER_NAME.fullmatch(value) or value == BASE_NAME:
        raise SettingError(
            f"{setting}={value!r} must be 1 to 32 lower-case letters, digits and single hyphens, such as 'stanley', "
            f"and not {BASE_NAME!r}, which is the model without an adapter"
        )
    return value


@dataclass(frozen=True, kw_only=True)
class ContainerSettings:
    """One container's options. Raises SettingError when made with a value that cannot be served."""

    tensor_parallel_size: int
    """GPUs that each matrix is split over: vLLM's default is one."""
    max_model_len: int
    """Tokens of prompt and answer together. Keys and values of Scout's own 10 million fit no GPU."""
    max_num_seqs: int = 16
    """Requests that are answered at the same time; more wait. vLLM reserves memory for as many at the start."""
    max_lora_rank: int = 16
    """Memory is reserved for adapters of this rank. One of VLLM_LORA_RANKS, at least the largest adapter's own."""
    adapters: Sequence[str] = field(default_factory=tuple)
    """Names by which requests choose an adapter, as `model`. The first one's chat template is used."""
    dtype: str = "bfloat16"
    """Of activations and of weights that are not quantised: Llama 4 leaves float16's range."""
    quantization: str | None = None
    """None reads it from the checkpoint's config.json, as an FP8 or INT4 checkpoint has it."""
    gpu_memory_utilization: float = GPU_SHARE
    """Share of each GPU's memory for weights, adapters, activations, keys and values. The planner counts with it."""
    enable_prefix_caching: bool = True
    """Keys and values of a prompt that begins like an earlier one are used again: system message and tools are always
    the same here."""
    images_per_prompt: int = 0
    """0 leaves the vision encoder's memory to keys and values: adapters are trained on text."""
    tool_call_parser: str = "llama4_pythonic"
    """Reads `[name(argument=value)]`, what heartbeat.tool_calls writes."""
    offline: bool = True
    """Asks no hub for files and reports no usage: without a network each try would wait for its time-out."""

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "max_model_len", "max_num_seqs"):
            if (value := getattr(self, name)) < 1:
                raise SettingError(f"{name}={value} must be at least 1")
        if self.max_lora_rank not in VLLM_LORA_RANKS:
            raise SettingError(
                f"max_lora_rank={self.max_lora_rank} is not a rank that vLLM takes; use one of "
                f"{', '.join(map(str, VLLM_LORA_RANKS))}, at least the adapter's own"
            )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise SettingError(
                f"gpu_memory_utilization={self.gpu_memory_utilization:g} must be above 0 and at most 1; 0.9 is usual"
            )
        if self.images_per_prompt < 0:
            raise SettingError(f"images_per_prompt={self.images_per_prompt} must be at least 0")
        for name in self.adapters:
            check_adapter_name("adapter_name", name)
        if len(set(self.adapters)) != len(self.adapters):
            raise SettingError(f"adapters={list(self.adapters)} names an adapter twice; name each once")
        if len(self.adapters) > MAX_ADAPTERS:
            raise SettingError(
                f"adapters={list(self.adapters)} are {len(self.adapters)}, and SageMaker takes {MAX_ADAPTERS} on an "
                "endpoint; replace one of them by using its name, or deploy to another endpoint_name"
            )

    def environment(self) -> dict[str, str]:
        """The container's environment variables."""
        return {
            **{f"SM_VLLM_{name.upper()}": _text(value) for name, value in self._options().items()},
            **({"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"} if self.offline else {}),
        }

    def _options(self) -> Mapping[str, object]:
        """vLLM's options by name; a value of True is a bare flag."""
        options: dict[str, object] = {
            "model": BASE_MODEL_PATH,
            "served_model_name": BASE_NAME,
            "tensor_parallel_size": self.tensor_parallel_size,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "dtype": self.dtype,
            "limit_mm_per_prompt": {"image": self.images_per_prompt},
            # On unless it is refused: the option has a twin for that.
            "enable_prefix_caching" if self.enable_prefix_caching else "no_enable_prefix_caching": True,
            "enable_auto_tool_choice": True,
            "tool_call_parser": self.tool_call_parser,
        }
        if self.quantization:
            options["quantization"] = self.quantization
        if self.adapters:
            modules = [f"{name}={adapter_path(name)}" for name in self.adapters]
            options |= {
                "enable_lora": True,
                # All of them in one batch: requests of one adapter do not wait for those of another.
                "max_loras": len(self.adapters),
                "max_lora_rank": self.max_lora_rank,
                # One word as it is, which older images read too.
                "lora_modules": modules if len(modules) > 1 else modules[0],
                "chat_template": f"{adapter_path(self.adapters[0])}/{CHAT_TEMPLATE}",
            }
        return options


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
