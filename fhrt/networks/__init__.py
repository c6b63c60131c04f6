"""Networks in plain torch, one file each, and the dict that names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def build(name: str) -> nn.Module:
    """A network with fresh weights, by the name that recipes use. Raises ModelError."""
    from fhrt.errors import ModelError
    from fhrt.networks.detector import Detector
    from fhrt.networks.landmarks import Landmarks
    from fhrt.networks.restore import Restore

    networks: dict[str, type[nn.Module]] = {
        "restore": Restore,
        "detector": Detector,
        "landmarks": Landmarks,
    }
    if name not in networks:
        raise ModelError(f"no network {name!r}; there are: {', '.join(networks)}")
    return networks[name]()
