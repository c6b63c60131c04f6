"""The shapes that an engine is built for."""

from __future__ import annotations

from dataclasses import dataclass

from fhrt.errors import UsageError
from fhrt.models import Recipe

Sizes = tuple[int, int, int]  # smallest, the one to be fastest at, largest
AXES = (0, 2, 3)  # of (N, C, H, W), which `Profile.ranges` are for


@dataclass(frozen=True)
class Profile:
    """batch, height and width of the input of an engine; height and width in pixels.

    Raises UsageError unless 1 ≤ smallest ≤ fastest ≤ largest.
    """

    batch: Sizes
    height: Sizes
    width: Sizes

    def __post_init__(self) -> None:
        for name, sizes in self.ranges().items():
            low, best, high = sizes
            if not 1 <= low <= best <= high:
                raise UsageError(f"{name} {spelt(sizes)}: MIN:OPT:MAX must rise, from 1 on")

    def __str__(self) -> str:
        return ", ".join(f"{name} {spelt(sizes)}" for name, sizes in self.ranges().items())

    def ranges(self) -> dict[str, Sizes]:
        """The three ranges by name, in the order of AXES."""
        return {"batch": self.batch, "height": self.height, "width": self.width}

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an engine of this profile takes an (N, C, H, W)."""
        ranges = zip(AXES, self.ranges().values(), strict=True)
        return all(low <= shape[axis] <= high for axis, (low, _, high) in ranges)

    def shapes(self, channels: int) -> list[tuple[int, int, int, int]]:
        """The smallest, the fastest and the largest (N, C, H, W)."""
        triples = zip(self.batch, self.height, self.width, strict=True)
        return [(batch, channels, height, width) for batch, height, width in triples]

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises UsageError for an (N, C, H, W) that an engine of this profile does not take."""
        for axis, (name, sizes) in zip(AXES, self.ranges().items(), strict=True):
            if not sizes[0] <= shape[axis] <= sizes[2]:
                raise UsageError(
                    f"{name} {shape[axis]} is outside the engine's profile, {spelt(sizes)}; "
                    "build it with a wider one"
                )


def profile_of(recipe: Recipe, batch: str = "", size: str = "") -> Profile:
    """The profile of a recipe. batch, size (of height and width alike): MIN:OPT:MAX, MIN:MAX
    (fastest at the largest) or one number, in place of what the recipe says.

    Raises UsageError for what cannot be read, and for sizes that the network cannot take.
    """
    if size := size or recipe.export.size:
        sides = parse_sizes(size, "size")
    elif recipe.sizes:
        inner = sorted(recipe.sizes)
        sides = (inner[0], inner[len(inner) // 2], inner[-1])
    else:
        raise UsageError(f"{recipe.name} takes pictures of any size: say which, --size MIN:OPT:MAX")
    for side in sides:
        if recipe.fixed and side != recipe.multiple:
            raise UsageError(f"size {side}: {recipe.name} takes {recipe.multiple} and no other")
        if side % recipe.multiple:
            raise UsageError(
                f"size {side} is no multiple of {recipe.multiple}, which {recipe.name} needs"
            )
    return Profile(parse_sizes(batch or recipe.export.batch, "batch"), sides, sides)


def parse_sizes(text: str, what: str) -> Sizes:
    """Read MIN:OPT:MAX, MIN:MAX or one number. what: its name in the message of the UsageError.

    >>> parse_sizes("1:4:8", "batch"), parse_sizes("1:8", "batch"), parse_sizes("512", "size")
    ((1, 4, 8), (1, 8, 8), (512, 512, 512))
    """
    words = text.split(":")
    if len(words) > 3 or not all(word.strip().isdecimal() for word in words):
        raise UsageError(f"{what} {text!r}: write MIN:OPT:MAX, like 1:4:8, or one number")
    numbers = [int(word) for word in words]
    return (numbers[0], numbers[min(1, len(numbers) - 1)], numbers[-1])


def spelt(sizes: Sizes) -> str:
    """MIN:OPT:MAX, or one number where there is only one.

    >>> spelt((1, 4, 8)), spelt((512, 512, 512))
    ('1:4:8', '512')
    """
    return str(sizes[0]) if sizes[0] == sizes[2] else ":".join(map(str, sizes))
