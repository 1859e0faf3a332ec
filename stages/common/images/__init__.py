"""From a raw file to pixels: listing, decoding, resizing. Entered by validate, prepare_train and predict."""
