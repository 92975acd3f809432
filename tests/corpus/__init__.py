"""Documents that others wrote, and our own of the same classes, run on stand-ins.

`real` says of every document of others that is at hand what is to become of it here, `own` has a
document for each pipeline class that any of theirs names, `bench` runs one and looks at what it
wrote. `make test` runs what stands for its family, `make corpus` all of it.
"""
