"""Diffusion: noise levels, conversions, preconditioning, samplers, exact denoisers of mixtures.

The house form is variance-exploding: `x_sigma = x_0 + sigma * noise`, and a network says `x_0`. The
variance-preserving form of a paper is `alphas_cumprod = 1 / (1 + sigma^2)`, `x_t = sqrt(alphas_cumprod) x_sigma`; its
noise prediction is `(x_sigma - denoised) / sigma`.
"""

from jkd.diffusion.mixtures import exact_denoiser, gaussian_mixture_denoiser
from jkd.diffusion.preconditioning import Noisy, edm_denoise, edm_scalings
from jkd.diffusion.samplers import euler_sample, heun_sample
from jkd.diffusion.schedules import (
    add_noise,
    classifier_free_guidance,
    ddpm_schedule,
    karras_sigmas,
    sigmas_of,
    x0_from_noise,
)

__all__ = [
    "Noisy",
    "add_noise",
    "classifier_free_guidance",
    "ddpm_schedule",
    "edm_denoise",
    "edm_scalings",
    "euler_sample",
    "exact_denoiser",
    "gaussian_mixture_denoiser",
    "heun_sample",
    "karras_sigmas",
    "sigmas_of",
    "x0_from_noise",
]
