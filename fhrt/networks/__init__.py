"""Networks in plain torch, one file each, and the dict that names them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def build(name: str, **options: Any) -> nn.Module:
    """A network with fresh weights, by the name that recipes use. Raises ModelError."""
    from fhrt.errors import ModelError, known_names
    from fhrt.networks import facesr
    from fhrt.networks.arcface import ArcFace
    from fhrt.networks.codeformer import CodeFormer
    from fhrt.networks.detector import Detector
    from fhrt.networks.gfpgan import GFPGAN
    from fhrt.networks.landmarks import Landmarks
    from fhrt.networks.parsenet import ParseNet
    from fhrt.networks.restore import Restore
    from fhrt.networks.restoreformer import RestoreFormer
    from fhrt.networks.retinaface import RetinaFace
    from fhrt.networks.rrdbnet import RRDBNet
    from fhrt.networks.srgan import SRResNet
    from fhrt.networks.srvgg import SRVGG
    from fhrt.networks.unet import UNet

    networks: dict[str, type[nn.Module]] = {
        "restore": Restore,
        "detector": Detector,
        "landmarks": Landmarks,
        "srresnet": SRResNet,
        "facesr-v1": facesr.FaceSRv1,
        "facesr-v2": facesr.FaceSRv2,
        "facesr-upsample": facesr.Upsample,
        "facesr-attention": facesr.Attention,
        "unet": UNet,
        "gfpgan": GFPGAN,
        "rrdbnet": RRDBNet,
        "srvgg": SRVGG,
        "retinaface": RetinaFace,
        "parsenet": ParseNet,
        "restoreformer": RestoreFormer,
        "arcface": ArcFace,
        "codeformer": CodeFormer,
    }
    if name not in networks:
        raise ModelError(f"no network {name!r}{known_names(name, networks)}")
    known = list(inspect.signature(networks[name].__init__).parameters)[1:]
    for option in options:
        if option not in known:
            nearest = known_names(option, known)
            raise ModelError(f"network {name} has no option {option!r}{nearest}")
    return networks[name](**options)
