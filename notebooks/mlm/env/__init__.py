"""Where a notebook runs. No module here knows about text or models.

notebook      one-line errors, installing missing packages, fewer warnings
scratch       models that are trained from scratch: the table of sizes
names         texts and models as they are shown and stored, without secrets and folders
files         atomic writes, SHA-256 sums, JSON files that detect damage
host          Colab, Kaggle or a TPU VM; preparing a TPU host
timing        which of several functions is the fastest
products      matrix products on a CPU: the library, bfloat16 or float32
hardware      which CPUs, GPUs and TPU cores this machine has
cuda_graph    Lightning's strategy for one GPU: a training step is recorded once, then replayed
devices       the matching arguments of Lightning's Trainer
hub_access    whether the Hugging Face Hub answers
model_folder  what is missing in a folder that is passed as a model
logger_names  the values of the parameter `logger`
trackers      loggers of metrics: TensorBoard, Weights & Biases, MLflow, Trackio
hub           what a model name refers to: a folder, or a model on the Hugging Face Hub
"""
