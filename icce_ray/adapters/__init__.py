"""One third party each: storage, image decoding, backbones, search indexes, partitioners. No Ray."""
