"""Where a notebook runs. No module here knows about text or models.

notebook      one-line errors, installing missing packages, fewer warnings
secrets       texts without passwords and tokens, as they are shown in messages
scratch       models that are trained from scratch: the table of sizes
names         texts and models as they are stored, without secrets and folders
files         atomic writes, SHA-256 sums, JSON files that detect damage
network       whether a server answers, the Hub above all
host          Colab, Kaggle or a TPU VM; preparing a TPU host
timing        which of several functions is the fastest
products      matrix products on a CPU: the library, bfloat16 or float32
hardware      which CPUs, GPUs and TPU cores this machine has
devices       the matching arguments of Lightning's Trainer
device_table  what 01 shows of this machine: its devices, and the speed of matrix products
model_folder  what is missing in a folder that is passed as a model
loggers       the names of the loggers of metrics
trackers      opens them: TensorBoard, Weights & Biases, MLflow, Trackio
hub           what a model name refers to: a folder, or a model on the Hugging Face Hub
"""
