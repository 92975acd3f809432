"""Third-party documents, and our own of the same classes, run on stand-ins.

`real` has the expected outcome of every available third-party document, `own` a document for each
pipeline class that they name, `bench` runs one and checks its files. `make test` runs one document
per family, `make corpus` all.
"""
