"""Data of the competition: metadata tables, tiles in HDF5, validation, and the generator of sample
data.

Only this package imports h5py; OpenCV is shared with `isic.image`.
"""
