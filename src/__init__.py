"""Age and gender from face photos with a two-level convolutional network.

Modules and packages, each of which imports only from those above it; a test checks this list:

- `config`: paths, age groups, sizes, seeds
- `files`: atomic writes and locks
- `processes`: starting and ending worker processes
- `keras_setup`: imports Keras with its backend
- `sample`: draws the embedded sample in the layouts of Adience and IMDB-WIKI
- `data`: reads label files into a table of faces: one loader per data set, downloads, splits
- `faces`: makes aligned faces from image files: reading, detection, landmarks, alignment, duplicates, whole data sets
- `evaluation`: metrics, calibration, results by subgroup, suspect labels, figures
- `models`: the two-level CNN, its training, model folders, ONNX Runtime, export
- `predict`: photos and videos to predictions: `Predictor`, `python -m src.predict`, annotated copies, the browser page
- `run_notebooks`: runs the notebooks in order
"""
