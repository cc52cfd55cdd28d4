"""A built dataset: schema, manifest, batches, pictures, verification."""
