"""One file per feature family; each holds one `FAMILY`, found by `isic.tabular.registry`.

`lesion/` describes a lesion by its own row, `patient/` compares it with the same patient's other lesions, `fitted/`
with training rows (one `KIND` each, see `isic.tabular.fitted`).
"""
