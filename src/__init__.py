"""Age and gender from face photos with a two-level convolutional network.

Data flows through these rooms from top to bottom. A module imports only from its own room and the rooms above it; the tests
check this list.

- `config`: paths, age groups, sizes, seeds
- `files`: atomic writes and locks
- `processes`: worker processes and how they end
- `keras_setup`: Keras with its backend
- `sample`: the drawn sample: face model, people, scenes, and its files in the layouts of Adience and IMDB-WIKI
- `data`: label files to a table of faces: one loader for each data set, downloads, splits
- `faces`: image files to aligned faces: reading, detection, landmarks, alignment, preparation of whole data sets
- `evaluation`: metrics, calibration, results by subgroup, figures
- `models`: the two-level CNN, its training, model folders, export
- `predict`: photos and videos to predictions: `Predictor`, `python -m src.predict`, annotated copies, the page
- `run_notebooks`: runs the notebooks in order
"""
