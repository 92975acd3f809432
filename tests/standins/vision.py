"""Stand-ins for models that look at pictures: how far things are, what they are, where they are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertTokenizer,
    ConvNextConfig,
    DPTConfig,
    DPTForDepthEstimation,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    PreTrainedModel,
    Sam2Config,
    Sam2Model,
    SamConfig,
    SamModel,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
)
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.zoedepth.image_processing_pil_zoedepth import ZoeDepthImageProcessorPil

from tests.standins.parts import seeded

SEEN_PX = 32
SMALL = {"height": SEEN_PX, "width": SEEN_PX}
ADE20K_KINDS = 150


def build_depth_model(folder: Path, seed: int = 0) -> None:
    """DPT, as MiDaS' models are."""
    with seeded(seed):
        model = DPTForDepthEstimation(
            DPTConfig(
                hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
                image_size=SEEN_PX, patch_size=8, backbone_out_indices=[0, 1, 2, 3],
                neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=8, initializer_range=0.2,
                reassemble_factors=[4, 2, 1, 0.5], is_hybrid=False,
            )
        )  # fmt: skip
    _save(model, folder, DPTImageProcessorPil(size=SMALL))


def build_metric_depth_model(folder: Path, seed: int = 0) -> None:
    """ZoeDepth, over a small BEiT."""
    from transformers import BeitConfig

    with seeded(seed):
        model = ZoeDepthForDepthEstimation(
            ZoeDepthConfig(
                backbone_config=BeitConfig(
                    image_size=SEEN_PX, patch_size=8, hidden_size=16, num_hidden_layers=4,
                    num_attention_heads=2, intermediate_size=16, out_indices=[1, 2, 3, 4],
                    reshape_hidden_states=False, use_relative_position_bias=True,
                ),
                backbone_hidden_size=16, neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=8,
                bottleneck_features=8, num_relative_features=8, bin_embedding_dim=8,
                num_attractors=[4, 2, 2, 1], reassemble_factors=[4, 2, 1, 0.5],
            )
        )  # fmt: skip
    _save(model, folder, ZoeDepthImageProcessorPil(size=SMALL))


def build_segmentation_model(folder: Path, seed: int = 0) -> None:
    """UperNet over a ConvNeXt, with ADE20K's kinds."""
    with seeded(seed):
        model = UperNetForSemanticSegmentation(
            UperNetConfig(
                backbone_config=ConvNextConfig(
                    hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1],
                    out_features=["stage1", "stage2", "stage3", "stage4"],
                ),
                hidden_size=8, pool_scales=[1, 2], auxiliary_in_channels=8, auxiliary_channels=4,
                num_labels=ADE20K_KINDS,
            )
        )  # fmt: skip
    _save(model, folder, SegformerImageProcessorPil(size=SMALL))


def build_detector(folder: Path, seed: int = 0) -> None:
    """Grounding DINO, which finds what a text names."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*marks, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    with seeded(seed):
        model = GroundingDinoForObjectDetection(
            GroundingDinoConfig(
                backbone_config=SwinConfig(
                    image_size=SEEN_PX, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1],
                    num_heads=[1, 1, 1, 1], window_size=2,
                    out_features=["stage2", "stage3", "stage4"],
                ),
                text_config=BertConfig(
                    vocab_size=len(words), hidden_size=16, num_hidden_layers=1,
                    num_attention_heads=2, intermediate_size=16, max_position_embeddings=64,
                ),
                d_model=64, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16,
                decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
                num_queries=1, max_text_len=64, num_feature_levels=4, dropout=0.0,
            )
        )  # fmt: skip
    _save(
        model,
        folder,
        GroundingDinoImageProcessorPil(
            size={"shortest_edge": SEEN_PX, "longest_edge": 2 * SEEN_PX}
        ),
    )
    tokenizer.save_pretrained(folder)


def build_segmenter(folder: Path, seed: int = 0) -> None:
    """SAM 2, which outlines what is in a box."""
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
                "blocks_per_stage": [1, 2, 1, 1], "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8], "image_size": [64, 64],
                "global_attention_blocks": [2],
                "window_positional_embedding_background_size": [2, 2],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    with seeded(seed):
        model = Sam2Model(config)
    _sharpen(model)
    processor = ViTImageProcessorPil(
        size={"height": 64, "width": 64},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    _save(model, folder, processor)


def build_sam(folder: Path, seed: int = 0) -> None:
    """SAM, which outlines what is at a point."""
    config = SamConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 16, "output_channels": 16, "window_size": 2, "mlp_dim": 16,
            "global_attn_indexes": [0], "num_pos_feats": 8, "initializer_range": 0.2,
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": 64, "patch_size": 16, "image_embedding_size": 4,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    with seeded(seed):
        model = SamModel(config)
    # It is sure of everything, or nothing it finds would be looked at.
    model.mask_decoder.iou_prediction_head.proj_out.bias.data.fill_(1.0)
    _sharpen(model)
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    _save(model, folder, processor)


def _sharpen(model: SamModel | Sam2Model) -> None:
    """Have its masks differ from nothing."""
    for head in model.mask_decoder.output_hypernetworks_mlps:
        head.proj_out.weight.data *= 1e6


def _save(model: PreTrainedModel, folder: Path, processor: object) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]


MATTING_CODE = '''"""Stands in for BiRefNet's code."""

import torch
from transformers import PreTrainedModel

from .matting_config import MattingConfig


class Matting(PreTrainedModel):
    config_class = MattingConfig

    def __init__(self, first=True, config=MattingConfig()):
        super().__init__(config)
        # As BiRefNet: data are read while it is constructed, which a meta tensor has not.
        self.rates = [rate.item() for rate in torch.linspace(0, 1, config.stages)]
        self.stages = torch.nn.ModuleList(torch.nn.Conv2d(3, 1, 1) for _ in self.rates)

    def forward(self, x):
        return [stage(x) for stage in self.stages]
'''
MATTING_CONFIG_CODE = """from transformers import PretrainedConfig


class MattingConfig(PretrainedConfig):
    def __init__(self, stages=2, **others):
        self.stages = stages
        super().__init__(**others)
"""


def build_matting_model(folder: Path) -> None:
    """A repository with its own class; its last stage takes bright pixels for the object."""
    folder.mkdir(parents=True)
    (folder / "matting.py").write_text(MATTING_CODE)
    (folder / "matting_config.py").write_text(MATTING_CONFIG_CODE)
    auto_map = {"AutoModelForImageSegmentation": "matting.Matting"}
    (folder / "config.json").write_text(json.dumps({"stages": 2, "auto_map": auto_map}))
    weights = {
        f"stages.{number}.{name}": torch.full(shape, sign * value)
        for number, sign in ((0, -1.0), (1, 1.0))
        for name, shape, value in (("weight", (1, 3, 1, 1), 20.0), ("bias", (1,), -20.0))
    }
    save_file(weights, folder / "model.safetensors")
