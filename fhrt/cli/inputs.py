"""What the user named on the command line, as a list of things to do."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fhrt.errors import InputError, UsageError

PHOTOS = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
VIDEOS = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
STANDARD = Path("-")  # stdin as a source, stdout as a target


@dataclass(frozen=True)
class Item:
    """One file to restore. A source or target of `STANDARD` is stdin or stdout."""

    source: Path
    target: Path
    video: bool


def plan(inputs: Sequence[str], videos: Sequence[Path], output: str | None) -> list[Item]:
    """Photos, folders, globs and '-' (`inputs`) and films (`videos`) -> what to read and write.

    output: a file for one input, else a folder; None writes NAME_restored beside each input.
    Raises UsageError for calls that make no sense, InputError for files that are not there.
    """
    sources = [(path, is_video(path)) for text in inputs for path in _expand(text, output is None)]
    sources += [(path, True) for video in videos for path in _expand(str(video), output is None)]
    if not sources:
        raise UsageError("nothing to do: name a photo, a folder, or --video FILE")
    folder = _output_folder(sources, output)
    items = []
    for source, video in dict.fromkeys(sources):
        if output is not None and folder is None:
            target = Path(output)
        elif source == STANDARD:
            target = STANDARD if folder is None else folder / "stdin_restored.png"
        elif folder is not None:
            target = folder / _restored_name(source, video, suffix="")
        else:
            target = source.with_name(_restored_name(source, video, suffix="_restored"))
        items.append(Item(source, target, video))
    _refuse_collisions(items)
    return items


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def _expand(text: str, beside: bool) -> list[Path]:
    """What a word on the command line stands for. beside: outputs go beside their inputs, and what
    an earlier run has written there is no new input."""
    if text == "-":
        return [STANDARD]
    path = Path(text)
    if path.is_dir():
        found = sorted(
            p for p in path.iterdir() if p.is_file() and p.suffix.lower() in PHOTOS | VIDEOS
        )
        if not found:
            raise InputError(f"{path}: no photos or videos in this folder")
        return _without_outputs(found) if beside else found
    if path.exists():
        return [path]
    if glob.has_magic(text):
        found = sorted(p for p in map(Path, glob.glob(text, recursive=True)) if p.is_file())
        if found:
            return _without_outputs(found) if beside else found
        raise InputError(f"{text}: nothing matches")
    raise InputError(f"{path}: no such file")


def _without_outputs(found: list[Path]) -> list[Path]:
    outputs = {p.with_name(_restored_name(p, is_video(p), "_restored")) for p in found}
    return [p for p in found if p not in outputs]


def _output_folder(sources: Sequence[tuple[Path, bool]], output: str | None) -> Path | None:
    """The folder that outputs go to; None where `output` names one file or is not given."""
    if output is None or output == "-":
        if output == "-" and len(sources) > 1:
            raise UsageError("one input at most can be written to stdout")
        if output == "-" and sources[0][1]:
            raise UsageError("a video cannot be written to stdout; name a file with -o")
        return None
    path = Path(output)
    if path.is_dir() or output.endswith(("/", "\\")):
        return path
    if len(sources) > 1:
        if path.suffix:
            raise UsageError(f"-o {output}: several inputs need a folder")
        return path
    # one input: without a suffix it must be a folder, since no format could be known
    return None if path.suffix else path


def _restored_name(source: Path, video: bool, suffix: str) -> str:
    """The name, with another ending where the input's is none that can be written."""
    from fhrt.video.writer import FORMATS

    writable, other = (FORMATS, ".mkv") if video else (PHOTOS, ".png")
    ending = source.suffix if source.suffix.lower() in writable else other
    return f"{source.stem}{suffix}{ending}"


def _refuse_collisions(items: Iterable[Item]) -> None:
    seen: dict[Path, Path] = {}
    for item in items:
        if item.target == STANDARD:
            continue
        key = item.target.resolve()
        if item.source != STANDARD and key == item.source.resolve():
            raise UsageError(f"{item.target}: the output is the input; choose another with -o")
        if key in seen:
            raise UsageError(
                f"{item.source} and {seen[key]} would both be written to {item.target}"
            )
        seen[key] = item.source
