"""Sources of images: a folder or prefix, tar files, Parquet, a list of URIs, or features computed elsewhere.

`find_source` says which kind a location is and gives the `Source` that lists and reads it; `open_source` opens it again
elsewhere, of a run that was listed before as `found_source` says.
"""

from icce_ray.io.sources.base import FeatureSource, Source, SourceError, SourceSpec
from icce_ray.io.sources.detect import find_source, found_source, open_source

__all__ = ["FeatureSource", "Source", "SourceError", "SourceSpec", "find_source", "found_source", "open_source"]
