"""The embedded sample, whose people do not exist.

Reading order: `face_model` (statistics of faces), `person`, `scene`, `imdb_wiki_files`, `draw` (the whole sample).
"""
