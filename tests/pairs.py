"""Tiny models of images and text, randomly initialised and saved to disk with their tokenizers."""

import string

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

SIDE = 32
_VISION = {"image_size": SIDE, "patch_size": 16, "hidden_size": 16, "intermediate_size": 32}
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(length):
    """Letters, a token each, with the tokens at both ends and the one that fills up."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: number for number, token in enumerate([*special, *string.printable])}
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    found.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=found, model_max_length=length, **names)


def save(kind, folder):
    """A model of `kind`, clip or siglip, in an empty folder."""
    torch.manual_seed(0)
    text = _LAYERS | {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 120, "max_position_embeddings": 64}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "clip":
        vision = CLIPVisionConfig(**_VISION, **_LAYERS)
        model = CLIPModel(CLIPConfig(text_config=CLIPTextConfig(**text), vision_config=vision, projection_dim=12))
        processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    else:
        vision = SiglipVisionConfig(**_VISION, **_LAYERS)
        model = SiglipModel(SiglipConfig(text_config=SiglipTextConfig(**text), vision_config=vision))
        processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    tokenizer(64).save_pretrained(folder)
    return model.eval()
