"""Features of pictures and texts against the model's own forward pass, and names against every cosine."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

from icce_ray.backbones import BackboneError
from icce_ray.backbones.image_text import describe_pair, load_pair
from icce_ray.core.naming import closest, most_confident, one_each, unit
from icce_ray.io.decode import decode
from tests.failures import fails
from tests.pairs import SIDE, save
from tests.pictures import encode, scene

TEXTS = ["a photo of a cat.", "x", "a photo of " + "a very " * 20 + "long dog."]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_both_towers_are_those_of_the_model(tmp_path, kind):
    model = save(kind, tmp_path)
    info = describe_pair(str(tmp_path))
    pair = load_pair(info, device="cpu", dtype="float32")
    pictures = [scene(SIDE, SIDE), scene(SIDE + 9, SIDE + 30)]
    pixels = [
        decode(encode(one, "PNG"), size=info.image_size, resize=info.preprocessing.resizing, max_pixels=10**6)
        for one in pictures
    ]
    processor = AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    words = AutoTokenizer.from_pretrained(tmp_path)
    filled = {"padding": "max_length"} if kind == "siglip" else {"padding": True}
    tokens = words(TEXTS, truncation=True, max_length=64, return_tensors="pt", **filled)
    with torch.inference_mode():
        inputs = processor([Image.fromarray(one) for one in pixels], return_tensors="pt")["pixel_values"]
        images = model.get_image_features(inputs).pooler_output.numpy()
        given = {"input_ids": tokens["input_ids"]} | (
            {"attention_mask": tokens["attention_mask"]} if kind == "clip" else {}
        )
        texts = model.get_text_features(**given).pooler_output.numpy()
    np.testing.assert_allclose(pair.embed(np.stack(pixels)).main, images, atol=1e-5)
    np.testing.assert_allclose(pair.texts(TEXTS, batch=2), pair.texts(TEXTS), atol=1e-6)
    np.testing.assert_allclose(pair.texts(TEXTS), texts, atol=1e-5)
    assert info.dim == images.shape[1] == texts.shape[1]


def test_a_model_without_text_is_refused(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(image_size=14, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, patch_size=7)
    Dinov2Model(config).save_pretrained(tmp_path)
    with fails(BackboneError, "dinov2", "clip or siglip"):
        describe_pair(str(tmp_path))


def test_a_model_without_its_tokenizer_or_weights_is_refused(tmp_path):
    save("clip", tmp_path)
    info = describe_pair(str(tmp_path))
    (tmp_path / "tokenizer.json").rename(tmp_path / "gone.json")
    with fails(BackboneError, tmp_path, "tokenizer"):
        load_pair(info, device="cpu", dtype="float32")


@pytest.mark.parametrize("seed", range(3))
def test_names_are_those_of_every_cosine(seed):
    draw = np.random.default_rng(seed)
    means, words = unit(draw.standard_normal((5, 8))), unit(draw.standard_normal((40, 8)))
    order, cosines = closest(means, words, 3)
    for label, mean in enumerate(means):
        expected = sorted(range(40), key=lambda word: (-float(mean @ words[word]), word))[:3]
        assert order[label].tolist() == expected
        np.testing.assert_allclose(cosines[label], [mean @ words[word] for word in expected], rtol=1e-6)
    own = one_each(means, words[:5])
    assert sorted(own) == list(range(5))
    best = max(
        sum(means[row] @ words[column] for row, column in enumerate(one)) for one in itertools.permutations(range(5))
    )
    assert sum(means[row] @ words[own[row]] for row in range(5)) == pytest.approx(best)


def test_the_most_confident_of_each_class():
    label, confidence = np.array([1, 0, 1, 1, 3, 0]), np.array([0.5, 0.9, 0.7, 0.7, 0.1, 0.95])
    assert most_confident(label, confidence, 4, 2).tolist() == [1, 2, 3, 4, 5]
    assert most_confident(label, confidence, 4, 1).tolist() == [2, 4, 5]
