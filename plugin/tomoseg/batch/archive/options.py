"""Options of a watched archive."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated

from tomoseg.core.errors import UsageError
from tomoseg.core.options import Option


@dataclass(frozen=True)
class ArchiveOptions:
    """How an archive is watched.

    Attributes:
        days: only studies of the last days; all by default.
        ca_file: certificates that sign the archive's own (PEM).
        max_bytes: series with more bytes are not taken.
        max_images: series with more images are not taken.
    """

    days: Annotated[int | None, Option("N")] = None
    ca_file: Annotated[str | None, Option("FILE")] = None
    max_bytes: Annotated[int, Option("N")] = 4 << 30
    max_images: Annotated[int, Option("N")] = 10_000

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_images"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')}: expected 1 or more, got {getattr(self, name)}")
        if self.days is not None and not 0 <= self.days <= 36500:
            raise UsageError(f"days: expected 0 to 36500, got {self.days}")

    @property
    def since(self) -> str:
        """The first day of the studies, as YYYYMMDD; empty for all."""
        return "" if self.days is None else f"{date.today() - timedelta(self.days):%Y%m%d}"
