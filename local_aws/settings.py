"""Where one embedded AWS lives: its port, its folder, its account."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ACCOUNT = "123456789012"
"""The one account. It is also the access key id of its administrator: any secret goes with it."""

REPOSITORY = Path(__file__).resolve().parent.parent
"""The folder in which stand-ins of public images are run."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Raises ValueError when a value cannot work."""

    port: int
    """TCP port on 127.0.0.1."""
    root: Path
    """Folder for images, jobs and endpoints; everything written lies under it."""
    region: str = "us-east-1"
    account: str = ACCOUNT

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port={self.port} must be between 1 and 65535")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self.region}:{self.account}:{resource}"
