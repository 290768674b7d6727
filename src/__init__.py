"""Age and gender from face photos with a two-level convolutional network.

The modules, in the order that the data flows; each imports only from those before it:

`config` paths, age groups, sizes · `tables` the table of faces, its ledger and its splits · `photos` reading a photo file
· `datasets` one loader for each data set · `faces` detection, landmarks, alignment · `looking` many photos in several
processes · `prepare` a table into cached aligned faces · `network` the two-level CNN · `train` · `evaluate` · `annotate`
answers drawn on a photo · `plots` · `model_folder` saving and loading a trained model · `answers` faces into the table's
columns · `explain` what a model looks at · `video` people followed · `predict` photos into answers · `demo` a page in the
browser.
"""
