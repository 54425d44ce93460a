"""Images to learn from: one loader for folders, ZIP files, ``.npz`` arrays and scikit-learn's digits.

``open_source`` looks at everything once (headers, sizes, class names) so that bad data is reported before training starts; pixels
are decoded when they are asked for.
"""

from mezzotint.data.opening import open_source
from mezzotint.data.source import Source, check_enough
from mezzotint.data.split import split_ids, subset

__all__ = ["Source", "check_enough", "open_source", "split_ids", "subset"]
