"""Generated data in the official files: true schema, published population, tiles that agree with
their rows.

Only `write_sample` is for use elsewhere.
"""

from isic.data.sample.write import write_sample

__all__ = ["write_sample"]
