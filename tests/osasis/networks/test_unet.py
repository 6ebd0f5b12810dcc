"""Noise and velocity predictions of the UNet."""

from __future__ import annotations

import torch

from osasis.diffusion import image_schedule, predict_x0, q_sample
from osasis.networks.sizes import DiffAEConfig
from osasis.networks.unet import UNet, noise_of_velocity


def test_noise_of_velocity() -> None:
    """v = sqrt(a) eps - sqrt(1 - a) x_0 is converted back to eps."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(1, 3, 4, 4, generator=generator).clamp(-1, 1) for _ in range(2))
    schedule = image_schedule(1000)
    for t in (0, 300, 999):
        x_t, a = q_sample(schedule, t, x0, eps), schedule.alpha_bar(t)
        v = a**0.5 * eps - (1 - a) ** 0.5 * x0
        found = noise_of_velocity(v, x_t, torch.tensor([t]))
        torch.testing.assert_close(found, eps, atol=1e-4, rtol=1e-4)
        if t < 999:
            clean = predict_x0(schedule, t, x_t, found)
            torch.testing.assert_close(clean, x0, atol=2e-3, rtol=0)


def test_a_base_that_predicts_v_still_gives_noise(tiny_config: DiffAEConfig) -> None:
    torch.manual_seed(0)
    unet = UNet(tiny_config.replace(prediction="v").unet).eval()
    torch.nn.init.normal_(unet.out[2].weight, std=0.1)
    x, z = torch.randn(2, 3, 16, 16), torch.randn(2, tiny_config.z_channels)
    t = torch.tensor([10, 700])
    with torch.no_grad():
        expected = noise_of_velocity(unet.raw(x, t, z), x, t)
        assert torch.equal(unet(x, t, z), expected)
    plain = UNet(tiny_config.unet).eval()
    plain.load_state_dict(unet.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(x, t, z), plain.raw(x, t, z))
