import pytest
import torch

from mezzotint.configs import EncoderConfig, UNetConfig
from mezzotint.errors import CapabilityError
from mezzotint.metrics.features import ClassifierFeatures, Pixels, extract, pixels
from mezzotint.networks.encoder import Encoder
from mezzotint.networks.unet import UNet


def test_pixels_are_rows_of_the_images():
    images = torch.arange(8, dtype=torch.float64).view(2, 1, 2, 2)
    assert pixels(images).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pixels(images).dtype == torch.float32


def test_classifier_features_lead_to_the_logits_without_dropout_or_gradient():
    torch.manual_seed(0)
    sizes = {"in_channels": 1, "out_channels": 3, "image_size": (8, 8), "width": 32, "mults": (1,), "blocks": 1, "attention": ()}
    network = Encoder(EncoderConfig(**sizes, head_channels=None, dropout=0.5)).train()
    images = torch.randn(5, 1, 8, 8)
    got = ClassifierFeatures(network, time_input=7.0)(images)
    torch.testing.assert_close(network.head.out(got["pool"]), network(images, torch.full((5,), 7.0), {}))
    torch.testing.assert_close(got["logits"], network.head.out(got["pool"]))
    assert not got["pool"].requires_grad
    assert not network.training


def test_extract_joins_batches():
    images = torch.randn(7, 1, 2, 2)
    assert torch.equal(extract(Pixels(), images.split(3))["pool"], pixels(images))


def test_a_network_without_pooled_features_is_refused():
    network = UNet(UNetConfig(in_channels=1, out_channels=1, width=32, mults=(1,), blocks=1, attention=()))
    with pytest.raises(CapabilityError, match="UNet has no tap 'pooled'"):
        ClassifierFeatures(network)
