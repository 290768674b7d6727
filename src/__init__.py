"""Age and gender from face photos with a two-level convolutional network.

The modules, in the order that the data flows; each imports only from those before it (a test reads this list):

- at the bottom: `config` paths, age groups, sizes · `files` atomic writes and locks · `processes` worker processes, and how
  they end · `backend` Keras, set up
- getting a data set: `download` · `unpack` · `fetch` · `landmark_file` dlib's 68 points
- from a picture to an aligned face: `tables` the table of faces, its ledger and its splits · `face_space` drawn faces ·
  `photos` reading a file · `datasets` one loader each · `detect` faces in a photo · `faces` landmarks and alignment ·
  `looking` many photos in several processes · `prepare` a table into cached aligned faces ·
  `duplicates` and `pictures` cleaning by what files show
- training: `network` the two-level CNN · `descriptor` dlib's descriptor network, the teacher · `joint` both tasks on one
  trunk, and their losses · `train`
- judging: `evaluate` · `protocol` IMDB-WIKI, then Adience's folds · `calibrate` · `label_noise` doubted labels · `assess`
  results by group · `placement` where labels go · `annotate` answers drawn on a photo · `plots` · `result_plots`
- the models: `onnx_graph` runs saved models without Keras · `model_folder` saving and loading · `released` the training of
  the released ones · `findings` what is known of them · `export` to ONNX and LiteRT
- answering: `answers` faces into the table's columns · `explain` what a model looks at · `upload` · `table_file` a table that
  grows · `predictor` photos into the table of predictions · `tracks` people followed · `video` · `camera` · `predict` the
  command · `demo` a page in the browser
- about all of it: `model_card` · `run` the notebooks in turn
"""
