"""Age and gender from face photos with a two-level convolutional network.

The modules, in the order that the data flows; each imports only from those before it:

`config` paths, age groups, sizes · `download`, `unpack`, `fetch` getting a data set · `tables` the table of faces, its
ledger and its splits · `photos` reading a photo file · `datasets` one loader for each data set · `faces` detection,
landmarks, alignment · `looking` many photos in several processes · `prepare` a table into cached aligned faces ·
`duplicates` · `pictures` cleaning by what the files show · `network` the two-level CNN · `train` · `evaluate` · `protocol`
IMDB-WIKI, then Adience's folds · `label_noise` labels that are likely wrong · `annotate` answers drawn on a photo · `plots`
· `model_folder` saving and loading a trained model · `answers` faces into the table's columns · `explain` what a model looks
at · `video` people followed · `predict` photos into answers · `demo` a page in the browser.
"""
