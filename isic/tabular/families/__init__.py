"""Feature families, found by `isic.tabular.registry`: a module holds one `FAMILY` or several
`FAMILIES`.

`lesion/` describes a lesion by its own row, `patient/` compares it with the same patient's other
lesions, `fitted/` with training rows (one `FAMILY` each, see `isic.tabular.fitted`).
"""
