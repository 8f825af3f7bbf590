"""Image encoders."""

import pytest
import torch

from lightning_rl.errors import ConfigError
from lightning_rl.networks.cnn import NatureCNN


def test_nature_network_has_the_published_shape():
    network = NatureCNN((4, 84, 84))
    assert network.linear.in_features == 64 * 7 * 7
    assert sum(p.numel() for p in network.parameters()) == 1_684_128
    assert network(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape == (2, 512)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (10, 10, 4), (3, 35, 200), (36, 36, 3), (210, 160, 3), (4, 4, 4)]
)
def test_any_image_size_works(shape):
    network = NatureCNN(shape, output_size=8)
    image = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    assert network(image).shape == (2, 8)
    assert network(image).isfinite().all()


def test_channel_order_is_detected():
    first, last = NatureCNN((3, 40, 40), 16), NatureCNN((40, 40, 3), 16)
    assert (first.channels_last, last.channels_last) == (False, True)
    last.load_state_dict(first.state_dict())
    image = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    torch.testing.assert_close(first(image), last(image.permute(0, 2, 3, 1)))


def test_a_stack_of_colour_images_is_one_image_of_all_channels():
    plain = NatureCNN((12, 40, 40), 16)
    images = torch.randint(0, 256, (2, 4, 3, 40, 40), dtype=torch.uint8)
    for shape, stacks in (((4, 3, 40, 40), images), ((4, 40, 40, 3), images.movedim(2, -1))):
        network = NatureCNN(shape, 16)
        network.load_state_dict(plain.state_dict())
        torch.testing.assert_close(network(stacks), plain(images.flatten(1, 2)))


def test_uint8_is_scaled_and_float_is_not():
    network = NatureCNN((1, 12, 12), 16)
    image = torch.randint(0, 256, (2, 1, 12, 12), dtype=torch.uint8)
    torch.testing.assert_close(network(image), network(image.float() / 255.0))


def test_grids_get_the_network_of_minatar():
    network = NatureCNN((4, 10, 10), brightest=1.0)
    assert network.linear.in_features == 16 * 8 * 8
    assert sum(p.numel() for p in network.parameters()) == 16 * 4 * 9 + 16 + 1024 * 128 + 128
    grid = torch.randint(0, 2, (2, 4, 10, 10), dtype=torch.uint8)
    assert network(grid).shape == (2, 128)
    torch.testing.assert_close(network(grid), network(grid.float()))


def test_a_wrong_shape_is_refused():
    with pytest.raises(ConfigError, match=r"got \(84, 84\)"):
        NatureCNN((84, 84))
