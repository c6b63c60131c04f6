"""`fhrt data`: faces to train on, prepared and looked at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(help="Prepare faces to train on, and look at what training makes of them.")

Source = Annotated[Path, typer.Argument(help="A folder, a zip, or a CSV with a column `file`.")]
Layout = Annotated[
    str, typer.Option(help="auto, faces (what prepare writes), ffhq, celeba, lfw, or folder.")
]


@data.command("prepare")
def prepare(
    source: Source,
    output: Annotated[Path, typer.Option("-o", "--output", help="A new or empty folder.")],
    size: Annotated[
        list[int] | None,
        typer.Option(min=32, max=2048, help="Side of the crops in pixels; may be repeated."),
    ] = None,
    layout: Layout = "auto",
    test_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the people that is kept for testing.")
    ] = 0.1,
    embedder: Annotated[
        Path | None,
        typer.Option(help="A face recognition ONNX file, to tell who is who without names."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed tests on other people.")] = 0,
    detector: Annotated[
        Path | None, typer.Option(help="A YuNet file in place of the bundled detector.")
    ] = None,
    enlarge: Annotated[
        bool, typer.Option("--enlarge", help="Take faces smaller than the crops, too.")
    ] = False,
) -> None:
    """Find, align and sort out faces, and split them by person.

    Writes DIR/faces/train/SIZE, DIR/faces/test/SIZE, DIR/faces/faces.csv and DIR/dropped.csv; 256
    and 512 pixels unless --size says otherwise. `fhrt train NAME --data DIR` trains on it.
    """
    from rich.console import Console
    from rich.progress import Progress

    from fhrt.detect import open_detector
    from fhrt.training import prepare as preparing
    from fhrt.training.data import find_faces

    sources = find_faces(source, None, None, layout)
    embed = None
    if embedder is not None:
        from fhrt.quality.identity import Embedder

        embed = Embedder(embedder).embed
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("looking at pictures", total=len(sources))
        made = preparing.prepare(
            sources,
            output,
            open_detector(detector),
            sorted(set(size or (256, 512))),
            embed,
            test_share,
            seed,
            enlarge,
            lambda done: bar.update(task, completed=done),
        )
    for place, count in made.counts.items():
        print(f"{output / 'faces' / place}: {count}")
    print(f"{made.people['train']} people for training, {made.people['test']} for testing")
    print(made.grouping)
    if made.dropped:
        why = preparing.reasons(made.dropped)
        print(f"dropped {len(made.dropped)} of {len(sources)}: {why}; see {output / 'dropped.csv'}")


@data.command("preview")
def preview(
    source: Source,
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture to write.")],
    damage: Annotated[
        str | None, typer.Option(help="One damage, as blind, shrink or occlude; all by default.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Only what this training configuration does.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="Faces on the sheet.")] = 12,
    seed: Annotated[int, typer.Option(help="Another seed shows other faces and damage.")] = 0,
    layout: Layout = "auto",
) -> None:
    """Draw a sheet of good faces and what the networks would be given of them."""
    from fhrt.runtime.session import need

    need("torch", "train")
    from fhrt.pictures import encode_picture, format_of, write_atomically
    from fhrt.training.data import find_faces
    from fhrt.training.preview import columns, sheet

    format_of(output)  # an unknown suffix is refused before the work
    shown = columns(damage, config)
    picture = sheet(find_faces(source, "train", None, layout), shown, count, seed)
    write_atomically(output, encode_picture(picture, output))
    print(f"{output}: {', '.join(column.name for column in shown)}", file=sys.stderr)
