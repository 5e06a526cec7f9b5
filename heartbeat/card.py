"""The claims that this project started from, held against arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from heartbeat.catalog import Catalog, load
from heartbeat.memory import GIB
from heartbeat.scout import QUANTISED_PARTS, SCOUT, ModelShape


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, what it computes to, and how."""

    claim: str
    computed: str
    arithmetic: str
    holds: bool


def card_truth_table(shape: ModelShape = SCOUT, catalog: Catalog | None = None) -> tuple[Claim, ...]:
    """The card's "17 B parameters, 34 GB in fp16, 17 GB in 4 bit, no sharding needed", computed."""
    parts = shape.parameters
    total, active = shape.total_parameters, shape.active_parameters
    nf4 = shape.bytes_by_part("nf4")
    quantised = sum(parts[part] for part in QUANTISED_PARTS)
    nf4_bytes = shape.bytes_nf4
    bf16_rest = nf4_bytes - sum(nf4[part] for part in QUANTISED_PARTS)
    gpus = {instance.gpu: instance.gpu_memory_gib for instance in catalog or load()}
    in_bf16 = [gpu for gpu, gib in gpus.items() if gib * GIB >= shape.bytes_bf16]
    in_nf4 = [gpu for gpu, gib in gpus.items() if gib * GIB >= nf4_bytes]
    return (
        Claim(
            claim="17 B parameters",
            computed=f"{total / 1e9:.1f} B, of which a token uses {active / 1e9:.1f} B",
            arithmetic=(
                f"{parts['routed_experts'] / 1e9:.1f} B routed experts ({shape.num_moe_layers} layers x "
                f"{shape.num_experts} experts x 3 x {shape.hidden_size} x {shape.expert_size}) + "
                f"{parts['shared_experts'] / 1e9:.1f} B shared experts + {parts['attention'] / 1e9:.1f} B attention + "
                f"{(parts['embedding'] + parts['head']) / 1e9:.1f} B embedding and head + "
                f"{parts['vision'] / 1e9:.1f} B vision"
            ),
            holds=total < 18e9,
        ),
        Claim(
            claim="34 GB in fp16",
            computed=f"{shape.bytes_bf16 / 1e9:.0f} GB",
            arithmetic=f"{total / 1e9:.1f} B parameters x 2 bytes: every expert is stored, also those a token skips",
            holds=shape.bytes_bf16 < 35e9,
        ),
        Claim(
            claim="17 GB in 4 bit",
            computed=f"{nf4_bytes / 1e9:.1f} GB ({nf4_bytes / GIB:.1f} GiB), the text model alone",
            arithmetic=(
                f"{quantised / 1e9:.1f} B x 0.516 bytes (4 bits and double-quantised scales) + "
                f"{bf16_rest / 1e9:.1f} GB of embedding, head, norms and routers in bf16"
            ),
            holds=nf4_bytes < 18e9,
        ),
        Claim(
            claim="no sharding needed, fits most GPU instances",
            computed=f"in bf16 {_holders(in_bf16, len(gpus))}; in 4 bit {_holders(in_nf4, len(gpus))}",
            arithmetic=(
                f"{shape.bytes_bf16 / GIB:.0f} GiB in bf16 and {nf4_bytes / GIB:.1f} GiB in 4 bit, before "
                f"activations and optimizer, against {', '.join(f'{gib:g}' for gib in sorted(set(gpus.values())))} "
                "GiB of one GPU"
            ),
            holds=2 * len(in_nf4) > len(gpus),
        ),
    )


def _holders(gpus: list[str], num_kinds: int) -> str:
    return f"{len(gpus)} of {num_kinds} kinds of GPU hold it alone" + (f" ({', '.join(gpus)})" if gpus else "")
