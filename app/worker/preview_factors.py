"""Published maps from latents to colours, by family of pipelines.

Source: InvokeAI (Copyright 2022-2026 InvokeAI Contributors, Apache License 2.0),
invokeai/app/util/step_callback.py at 01d6f09: linear fits of images to the latents that the
family's autoencoder encodes them into. Each row is a latent channel's share of red, green and blue,
of -1 to 1; there is no bias. Latents are as a pipeline holds them, before the autoencoder's scaling
is undone.

FLUX.2's factors are absent because that file takes them from a GPL project, and Qwen-Image's
because it uses those of CogView4, another autoencoder. Both are learnt.
"""

from __future__ import annotations

SD15 = (
    (0.3444, 0.1385, 0.0670),
    (0.1247, 0.4027, 0.1494),
    (-0.3192, 0.2513, 0.2103),
    (-0.1307, -0.1874, -0.7445),
)
SDXL = (
    (0.3816, 0.4930, 0.5320),
    (-0.3753, 0.1631, 0.1739),
    (0.1770, 0.3588, -0.2048),
    (-0.4350, -0.2644, -0.4289),
)
SD3 = (
    (-0.05240681, 0.03251581, 0.0749016),
    (-0.0580572, 0.00759826, 0.05729818),
    (0.16144888, 0.01270368, -0.03768577),
    (0.14418615, 0.08460266, 0.15941818),
    (0.04894035, 0.0056485, -0.06686988),
    (0.05187166, 0.19222395, 0.06261094),
    (0.1539433, 0.04818359, 0.07103094),
    (-0.08601796, 0.09013458, 0.10893912),
    (-0.12398469, -0.06766567, 0.0033688),
    (-0.0439737, 0.07825329, 0.02258823),
    (0.03101129, 0.06382551, 0.07753657),
    (-0.01315361, 0.08554491, -0.08772475),
    (0.06464487, 0.05914605, 0.13262741),
    (-0.07863674, -0.02261737, -0.12761454),
    (-0.09923835, -0.08010759, -0.06264447),
    (-0.03392309, -0.0804029, -0.06078822),
)
FLUX = (
    (-0.0412, 0.0149, 0.0521),
    (0.0056, 0.0291, 0.0768),
    (0.0342, -0.0681, -0.0427),
    (-0.0258, 0.0092, 0.0463),
    (0.0863, 0.0784, 0.0547),
    (-0.0017, 0.0402, 0.0158),
    (0.0501, 0.1058, 0.1152),
    (-0.0209, -0.0218, -0.0329),
    (-0.0314, 0.0083, 0.0896),
    (0.0851, 0.0665, -0.0472),
    (-0.0534, 0.0238, -0.0024),
    (0.0452, -0.0026, 0.0048),
    (0.0892, 0.0831, 0.0881),
    (-0.1117, -0.0304, -0.0789),
    (0.0027, -0.0479, -0.0043),
    (-0.1146, -0.0827, -0.0598),
)
COGVIEW4 = (
    (0.00408832, -0.00082485, -0.00214816),
    (0.00084172, 0.00132241, 0.00842067),
    (-0.00466737, -0.00983181, -0.00699561),
    (0.03698397, -0.04797235, 0.03585809),
    (0.00234701, -0.00124326, 0.00080869),
    (-0.00723903, -0.00388422, -0.00656606),
    (-0.00970917, -0.00467356, -0.00971113),
    (0.17292486, -0.03452463, -0.1457515),
    (0.02330308, 0.02942557, 0.02704329),
    (-0.00903131, -0.01499841, -0.01432564),
    (0.01250298, 0.0019407, -0.02168986),
    (0.01371188, 0.00498283, -0.01302135),
    (0.42396525, 0.4280575, 0.42148206),
    (0.00983825, 0.00613302, 0.00610316),
    (0.00473307, -0.00889551, -0.00915924),
    (-0.00955853, -0.00980067, -0.00977842),
)
FACTORS = {
    "StableDiffusionXL": SDXL,
    "StableDiffusion3": SD3,
    "StableDiffusion": SD15,
    "CogView4": COGVIEW4,
    "Flux": FLUX,
    "ZImage": FLUX,
}
"""By the beginning of a pipeline's class name; the first that fits counts. A digit after it means
another family: `Flux2Pipeline` has another autoencoder than `FluxPipeline`."""


def published_factors(pipeline_class: str) -> tuple[tuple[float, float, float], ...] | None:
    """Returns the factors (channels, 3) of this pipeline's family, None for one without."""
    for name, factors in FACTORS.items():
        rest = pipeline_class.removeprefix(name)
        if rest != pipeline_class and not rest[:1].isdigit():
            return factors
    return None
