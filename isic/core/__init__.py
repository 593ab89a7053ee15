"""What would be true without any file format or learner: metric, folds, schema, parameters, atomic files.

May be imported by every room; imports none of them.
"""
