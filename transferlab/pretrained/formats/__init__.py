"""File formats of weights, read lazily and written: each reader returns ``{key: tensor}`` whose tensors know shape and dtype."""
