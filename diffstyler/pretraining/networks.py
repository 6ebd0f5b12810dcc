"""The networks of a small Stable Diffusion, with random weights."""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from diffstyler.pretraining.settings import Sizes
from diffstyler.pretraining.tokenizer import LENGTH

LATENT_CHANNELS = 4
# That of Stable Diffusion 2.1.
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def make_vae(sizes: Sizes) -> AutoencoderKL:
    levels = len(sizes.vae_widths)
    return AutoencoderKL(
        sample_size=sizes.image_size,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.vae_widths,
        layers_per_block=1,
        norm_num_groups=sizes.groups,
        latent_channels=LATENT_CHANNELS,
    )


def make_unet(sizes: Sizes) -> UNet2DConditionModel:
    """The blocks of Stable Diffusion: attention in all levels but the lowest."""
    return UNet2DConditionModel(
        sample_size=sizes.latent_size,
        block_out_channels=sizes.unet_widths,
        layers_per_block=2,
        cross_attention_dim=sizes.text_width,
        # In spite of its name, diffusers takes the number of heads.
        attention_head_dim=tuple(max(1, w // sizes.head_width) for w in sizes.unet_widths),
        norm_num_groups=sizes.groups,
        use_linear_projection=True,
    )


def make_text_encoder(sizes: Sizes, tokens: int) -> CLIPTextModel:
    """tokens: of the tokenizer; the last two are the start and the end of a text."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=sizes.text_width,
            intermediate_size=4 * sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=sizes.text_heads,
            max_position_embeddings=LENGTH,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=0,
        )
    )
