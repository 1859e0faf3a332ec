"""From a raw file to pixels: listing, decoding, resizing. Used by validate, prepare_train and predict."""
