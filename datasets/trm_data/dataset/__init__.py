"""Read a built dataset: schema, manifest, batches, pictures, verification."""
