"""How far a running stage is, in a file that other processes read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blender_med.store.files import read_json

FILE = "live.json"


class Heartbeat(BaseModel):
    """State of the stage that runs; written every two seconds.

    Attributes:
        stage: Its name.
        total: Steps of the whole stage.
        done: Steps done, those of earlier runs too.
        rate: Steps a second in this run, up to the last step.
        seconds: Since this run started the stage.
        silent: Seconds since the last step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    total: int = Field(ge=0)
    done: int = Field(ge=0)
    rate: float = Field(ge=0)
    seconds: float = Field(ge=0)
    silent: float = Field(ge=0)

    @property
    def left(self) -> float | None:
        """Seconds that the stage will still take at its rate; None before the first step."""
        return max(0.0, (self.total - self.done) / self.rate - self.silent) if self.rate else None


def write_heartbeat(path: Path, beat: Heartbeat) -> None:
    """Replace the file; a disk that is full or read-only does not stop a run here.

    Not flushed: what is lost at a power cut is of no use after it.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with suppress(OSError):
        temporary.write_text(beat.model_dump_json(), encoding="utf-8")
        temporary.replace(path)


def read_heartbeat(path: Path) -> Heartbeat | None:
    """The last state, or None where there is none or it is damaged."""
    try:
        return Heartbeat.model_validate(read_json(path))
    except ValidationError:
        return None


def remove_heartbeat(path: Path) -> None:
    """Remove the file at the end of a run."""
    with suppress(OSError):
        path.unlink()
