"""Other people's ONNX models as Tidegate packages.

`facts` reads what a file says of itself, `understand` and `layout` work out how it is fed and read, `settle` tries that
on the runtime, `pack` makes the package with the `levels`, `trial` runs one over recordings, `plot` and `card` show it.
"""
