"""Bytes of the competition: metadata tables, tiles in HDF5, validation, and the generator of sample
data.

The only home of h5py; OpenCV is shared with `isic.image`.
"""
