"""Networks, their training and their files.

Reading order: `two_level_cnn`, `train`, `model_folder`; then `residual` (another level one), `onnx_graph` and `export`.
The network of the released models is in `experiments`.
"""
