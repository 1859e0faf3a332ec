"""Stage `prepare_train`: decode, crop and resize the images, and split them into train, validation and test.

Inputs: the raw image folder, and the artifact of stage validate, whose annotations.csv says which images to take.
Outputs (S = data.image_size):
    shards/<lot>.npy             uint8 (images of the lot, S, S, 3), RGB, rows in the order of index.csv
    attributes.json              what is annotated, as stage validate has it
    index.csv                    filename, lot, row in the shard, split, pixels (digest of the picture), group (the same
                                 for images that somebody says belong together, and for nearly the same pictures), and
                                 per attribute the class index, empty where unknown; with crop face the fields of
                                 `stages.common.schema.face.Face`; sorted by lot, then file name
    rejected.csv                 filename, reason: images that cannot be used, or are others than stage validate saw;
                                 they are counted everywhere
    left_out.csv                 filename, reason: images of validation and test that are nearly the same picture as one
                                 of the training split, and of validation that are nearly one of the test split; and,
                                 where splits are given, images of a group that shares a picture with another split
    metrics/data_stats.json      counts per split, lot and class, of groups, duplicates, faces per picture, mean and
                                 standard deviation of the train split's pixels (0-255)
    preprocessing.json           the settings that made the images, which go with the model
    plots/data_distribution.png  class shares per attribute and split
    findings.csv                 what the suite expectations/prepared.json found: severity, reason, filename, column,
                                 value
    data_docs/prepared/          index.html and suite.html: Great Expectations' own pages

A group that somebody has given is in one split, by a hash of its name; any other image by one of its picture. Where
`data.split` is given, the splits are those of the annotations.

The suite runs before anything is published; what it holds critical, for example a picture in two
splits, fails the stage.

Work is cut by lot: a lot whose files, code and settings did not change takes its shard from the stage's cache.
"""
