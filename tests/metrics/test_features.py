import pytest
import torch
from torch import Tensor, nn

from mezzotint.errors import CapabilityError
from mezzotint.metrics.features import ClassifierFeatures, extract, pixels


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.drop = nn.Dropout(0.5)

    def features(self, images: Tensor) -> Tensor:
        return self.drop(self.first(images.flatten(1)))[:, :, None]


def test_pixels_are_rows_of_the_images():
    images = torch.arange(8, dtype=torch.float64).view(2, 1, 2, 2)
    assert pixels(images).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pixels(images).dtype == torch.float32


def test_classifier_features_are_flat_free_of_dropout_and_without_gradient():
    torch.manual_seed(0)
    classifier = Classifier().train()
    images = torch.randn(5, 1, 2, 2)
    got = ClassifierFeatures(classifier)(images)
    torch.testing.assert_close(got, classifier.first(images.flatten(1)).detach())
    assert not got.requires_grad


def test_extract_joins_batches():
    images = torch.randn(7, 1, 2, 2)
    assert torch.equal(extract(pixels, images.split(3)), pixels(images))


def test_a_module_without_features_is_refused():
    with pytest.raises(CapabilityError, match="Linear has no method 'features'"):
        ClassifierFeatures(nn.Linear(1, 1))
