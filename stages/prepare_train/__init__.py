"""Stage `prepare_train`: decode, crop and resize the images, and split them into train, validation and test.

Inputs: the raw image folder, and the artifact of stage validate, whose annotations.csv lists the images to use.
Outputs (S = data.image_size):
    shards/<lot>.npy             uint8 (images of the lot, S, S, 3), RGB, rows in the order of index.csv
    attributes.json              the attributes, as in stage validate
    index.csv                    filename, lot, row in the shard, split, pixels (digest of the picture), group (the same
                                 for images of a given group, and for near duplicates), and per attribute the class
                                 index, empty where unknown; with crop face the fields of
                                 `stages.common.schema.face.Face`; sorted by lot, then file name
    rejected.csv                 filename, reason: images that cannot be used, or have changed since stage validate;
                                 they are counted everywhere
    left_out.csv                 filename, reason: val and test images that are near duplicates of a training image, and
                                 val images that are near duplicates of a test image; and, with given splits, images
                                 of a group that shares a picture with another split
    metrics/data_stats.json      counts per split, lot and class, of groups, duplicates, faces per picture, mean and
                                 standard deviation of the train split's pixels (0-255)
    preprocessing.json           the settings of the preprocessing, which become part of the model
    plots/data_distribution.png  class shares per attribute and split
    findings.csv                 findings of the suite expectations/prepared.json: severity, reason, filename, column,
                                 value
    data_docs/prepared/          index.html and suite.html: Great Expectations' own pages

A given group is in one split, by a hash of its name; the split of any other image follows from a hash of its picture.
If `data.split` is given, the splits are those of the annotations.

The suite runs before anything is published; a critical finding, for example a picture in two splits, fails the stage.

Work is divided into lots: the shard of a lot with unchanged files, code and settings comes from the stage's cache.
"""
