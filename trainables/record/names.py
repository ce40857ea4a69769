"""Names in MLflow, each written once."""

EXPERIMENT = "transfusion"

# Tags of every run of the project
KIND = "kind"
TRIAL_KIND = "trial"
STUDY_KIND = "study"
PROBE_KIND = "probe"

# Tags of a trial's run
TRIAL_ID = "trial_id"
CELL = "cell"
CELL_ID = "cell_id"
SPEC = "spec"
ATTEMPT = "attempt"
CAUSE = "cause"
STATE = "state"
CHECKPOINT_PREFIX = "checkpoint."
BEST, FINAL = "best", "final"
STUDY_PREFIX = "study."
ADDED = "added"  # the content of that tag, of a seed that the study file does not name
SETTING_PREFIX = "setting."
PRUNED = "pruned"
DIVERGED = "diverged"
RUN_NAME = "mlflow.runName"
GIT_COMMIT = "mlflow.source.git.commit"
GIT_DIRTY = "git_dirty"
HOST = "host"
DEVICE = "device"
CPU_MODEL = "cpu_model"
GPU_MEMORY_GB = "gpu_memory_gb"
SPENT = "spent"
PROBE = "probe"
DATASET_DIGEST = "dataset_digest"
PROCESS = "process"
ALIVE = "alive"
MICRO_BATCH_SIZE = "micro_batch_size"

# Tags and artifacts of a study's run
STUDY = "study"
USED = "used"
WALL_TIME = "wall_time"
RECORDS = "records"

# Artifacts of a trial's run
CHECKPOINTS = "checkpoints"
STATES = "state"
PREDICTIONS = "predictions"
SPEC_FILE = "spec.json"
ENVIRONMENT_FILE = "environment.json"
TRACEBACK_FILE = "traceback.txt"

# MLflow stores at most this many characters in a tag.
MAX_TAG_CHARACTERS = 8000

# A running trial tells the time (whole seconds since 1970, UTC) in its tag ALIVE at least this often …
HEARTBEAT_EVERY_S = 30.0
# … and one that has been silent for so long has lost its process.
DEAD_AFTER_S = 180.0

STATUS_WORDS = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
    "RUNNING": "running",
    "SCHEDULED": "running",
}
