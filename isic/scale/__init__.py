"""The same work on a cluster: shards of whole patients, prediction over them, folds of image networks.

The optional extra `isic[ray]`: ray is imported in this package only, and inside functions, so that shards can be made
and read without it. Everything that decides a score comes from the rooms below.
"""
