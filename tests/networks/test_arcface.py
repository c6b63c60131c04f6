"""ArcFace's ResNet-18: the keys of its checkpoint, and its numbers with seeded weights."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
from reference import Watched, keys, needs_reference, seeded, vector  # noqa: E402

from fhrt.faces import Picture  # noqa: E402
from fhrt.networks.arcface import ArcFace  # noqa: E402

pytestmark = needs_reference

NAME = "arcface-resnet18"


@pytest.fixture(scope="module")
def official() -> ArcFace:
    """Our network with the official one's seeded weights."""
    with torch.device("meta"):  # nothing is drawn that the weights replace
        network = ArcFace().eval()
    network.load_state_dict(seeded(NAME), assign=True)
    return network


@torch.inference_mode()
def test_the_official_checkpoint_loads_and_gives_the_official_numbers(official: ArcFace) -> None:
    assert {key: tuple(v.shape) for key, v in official.state_dict().items()} == keys(NAME)
    expected = vector(NAME)
    wanted = expected.named()
    assert sorted(wanted) == ["mid:layer1", "mid:layer4", "output"]
    watched = Watched(official, {n.removeprefix("mid:") for n in wanted if "mid:" in n})
    found = {"output": official.raw(expected.input())}
    found |= {f"mid:{path}": value for path, value in watched.seen.items()}
    deviations = {n: expected.deviation(n, found[n]) for n in wanted}
    assert all(d <= tol for d, tol in deviations.values()), deviations


@pytest.mark.parametrize("side", [512, 128])
@torch.inference_mode()
def test_a_picture_in_0_to_1_is_made_grey_and_128_wide(
    official: ArcFace, astronaut: Picture, side: int
) -> None:
    picture = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA)
    face = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32)) / 255
    luma = cv2.cvtColor(picture.astype(np.float32) / 127.5 - 1, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(luma, (128, 128), interpolation=cv2.INTER_LINEAR)
    expected = official.raw(torch.from_numpy(grey)[None, None])
    # OpenCV's red weighs 0.299, GFPGAN's 0.2989
    assert float((official(face) - expected).abs().max()) < 1e-3
    swapped = official(face.flip(1))
    assert float((swapped - expected).abs().max()) > 0.05


@torch.inference_mode()
def test_each_face_of_a_batch_is_embedded_by_itself(official: ArcFace) -> None:
    faces = torch.rand(2, 3, 160, 144, generator=torch.Generator().manual_seed(0))
    together, alone = official(faces), torch.cat([official(face[None]) for face in faces])
    assert together.shape == (2, 512)
    assert float((together[0] - together[1]).abs().max()) > 0.01
    assert torch.allclose(together, alone, atol=1e-4)


def test_the_picture_gets_a_gradient_as_an_identity_loss_needs(official: ArcFace) -> None:
    face = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (slope,) = torch.autograd.grad(official(face).square().sum(), face)
    direction = slope / slope.norm()
    with torch.no_grad():
        step = 0.1
        ahead, behind = (official(face + s * step * direction).square().sum() for s in (1, -1))
    assert float((ahead - behind) / (2 * step)) == pytest.approx(float(slope.norm()), rel=0.05)
