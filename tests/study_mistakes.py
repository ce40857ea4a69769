"""A good study file, and a table of ways to spoil it; one mistake a line."""
# ruff: noqa: E501

GOOD = """\
name: demo
question: Does it help?
seeds: [0, 1]
datasets:
  few: {from: digits_5_9, train_fraction: 0.1}
trial:
  architecture: cbr_tiny
  dataset: few
  training:
    steps: 20
    optimizer: {kind: sgd, lr: 0.1}
source:
  dataset: digits_0_4
  training: {steps: 40}
grid:
  architecture: [cbr_tiny, cbr_small]
  init: [random, pretrained, transfusion]
  transfusion_depth: [1, 2]
zip:
  - training.batch_size: [8, 16]
    training.optimizer.lr: [0.1, 0.2]
exclude:
  - where: {architecture: cbr_small, init: pretrained}
    reason: too slow
include:
  - set: {init: mean_var}
    reason: the scale alone
resources:
  cpu: 1
  by_architecture: {cbr_small: {cpu: 2}}
checkpoints: {keep: [final]}
analysis:
  thresholds: {few: 0.9}
"""

# What is replaced, by what; the line that is named, and the beginning of what is said.
MISTAKES: list[tuple[str, str, int, str]] = [
    # YAML's traps
    ("name: demo", "name: a: b", 1, "a second colon or a wrong indentation; put text that contains ': ' in"),
    ("name: demo", "name: [a", 2, "not YAML: "),
    ("name: demo", "name: *nobody", 1, "not YAML: found undefined alias 'nobody'"),
    ("name: demo", "name: &a [*a]", 1, "name[0]: an anchor contains itself"),
    ("name: demo", "name: a\x07", 1, "a character is not allowed in YAML"),
    ("  architecture: cbr_tiny\n", "\tarchitecture: cbr_tiny\n", 7, "a tab stands here; YAML wants spaces"),
    ("checkpoints:", "---\ncheckpoints:", 31, "a second document begins here (---)"),
    ("checkpoints: {", "seeds: 3\ncheckpoints: {", 31, "seeds is given twice, first in line 3; YAML would keep"),
    ("    steps: 20", "    steps: 20\n    steps: 30", 11, "trial.training.steps is given twice, first in line 10"),
    ("steps: 20", "steps: 012", 10, "trial.training.steps: YAML reads 012 as 10 (octal); write 10 or 12"),
    ("steps: 20", "steps: 1:30", 10, "trial.training.steps: YAML reads 1:30 as 90 (base 60); write 90"),
    ("steps: 20", "steps: 1:30.5", 10, "trial.training.steps: YAML reads 1:30.5 as 90.5 (base 60)"),
    ("steps: 20", "steps: !!int x", 10, "trial.training.steps: x is not a whole number"),
    ("steps: 20", "steps: !!binary aGk=", 10, "trial.training.steps: the tag !!binary is not allowed"),
    ("lr: 0.1}", "lr: !!float x}", 11, "trial.training.optimizer.lr: x is not a number"),
    ("lr: 0.1}", "lr: 1e-4}", 11, "training.optimizer.lr must be a number, got '1e-4' (YAML reads 1e-4 as text; write 1.0e-4)"),
    ("lr: 0.1}", "lr: .nan}", 11, "trial.training.optimizer.lr must be a finite number, got .nan"),
    ("lr: 0.1}", "nesterov: yes}", 11, "trial.training.optimizer.nesterov: YAML reads yes as true; write true, or 'yes'"),
    ("name: demo", "name: no", 1, "name: YAML reads no as false; write false, or 'no' in quotes for text"),
    ("name: demo", "name: 2019-02-14", 1, "name: YAML reads 2019-02-14 as a date; put it in quotes for text"),
    ("name: demo", "name: !!python/name:os.system x", 1, "name: the tag !!python/name:os.system is not allowed"),
    ("  few: {", "  no: {from: digits}\n  few: {", 5, "datasets: the key no must be in quotes to be text (YAML reads it as false)"),
    ("  few: {", "  5: {from: digits}\n  few: {", 5, "datasets: the key 5 must be in quotes to be text (YAML reads it as a number)"),
    ("  few: {", "  [a]: {from: digits}\n  few: {", 5, "datasets: a key must be text, got a list"),
    ("  few: {", "  <<: 3\n  few: {", 4, "datasets: <<: stands before the anchor of a mapping"),
    # Sections
    ("question:", "qestion:", 2, "qestion is not a field of a study; did you mean 'question'? (fields: name, question, seeds"),
    ("name: demo\n", "", 1, "name is required"),
    ("name: demo", "name: my study", 1, "name must consist of letters, digits and _ - . only, got 'my study'"),
    ("name: demo", "name: 2019", 1, "name must be text, got 2019; put it in quotes"),
    ("question: Does it help?", "question: [a]", 2, "question must be text, got ['a']"),
    ("seeds: [0, 1]", "seeds: [0, -1]", 3, "seeds[1] must be at least 0, got -1"),
    ("seeds: [0, 1]", "seeds: [0, 0]", 3, "seeds must be all different, got 0 more than once"),
    ("seeds: [0, 1]", "seeds: 0", 3, "seeds must be a list of seeds, or how many (1 to 10000), got 0"),
    ("seeds: [0, 1]", "seeds: []", 3, "seeds must not be empty"),
    ("seeds: [0, 1]", "seeds: true", 3, "seeds must be a list, got True"),
    ("from: digits_5_9", "from: digits_5_8", 5, "datasets.few.from must be one of "),
    ("train_fraction: 0.1", "train_fractoin: 1", 5, "datasets.few.train_fractoin is not a field of datasets.few; did you mean 'train_fraction'?"),
    ("train_fraction: 0.1", "train_fraction: 2", 5, "datasets.few.train_fraction must be at most 1, got 2"),
    ("from: digits_5_9", "reader: digts", 5, "datasets.few.reader must be one of 'aptos', "),
    ("train_fraction: 0.1", "path: a", 5, "datasets.few.path must be left out: "),
    ("dataset: few", "dataset: phew", 8, "dataset must be one of "),
    ("dataset: few", "dataset: {from: few, sizepx: 3}", 8, "dataset.sizepx is not a field of dataset; did you mean 'size_px'?"),
    ("dataset: few", "dataset: {from: few, size_px: 8}", 8, "dataset.size_px must be at least 16 for cbr_tiny, got 8"),
    ("dataset: few", "dataset: 3", 8, "dataset must be the name of a dataset or a mapping, got 3"),
    ("  dataset: few\n", "", 6, "dataset is required; give it in trial, or make it an axis of the grid"),
    ("  dataset: few\n", "  dataset: few\n  seed: 1\n", 9, "trial.seed is not a field of trial (fields: architecture, init"),
    ("    steps: 20", "    stepps: 20", 10, "training.stepps is not a field of training; did you mean 'steps'?"),
    ("{kind: sgd,", "{kind: sdg,", 11, "training.optimizer.kind must be one of 'adam', 'sgd', got 'sdg'; did you mean 'sgd'?"),
    # The source
    ("source:\n  dataset: digits_0_4\n  training: {steps: 40}\n", "", 14, "init: pretrained needs a source of pretrained weights; add a section source to the file"),
    ("dataset: digits_0_4", "dataset: digits_0_5", 13, "source.dataset must be one of "),
    ("dataset: digits_0_4", "dataset: {from: digits_0_4, channels: 3}", 13, "source.dataset.channels must be 1 as in the target digits 5–9 0.1, got 3 (digits 0–4); give both"),
    ("dataset: digits_0_4", "dataset: {from: digits_0_4, size_px: 8}", 13, "source.dataset.size_px must be at least 16 for cbr_tiny, got 8"),
    ("  training: {steps: 40}", "  training: {stepps: 40}", 14, "source.training.stepps is not a field of source.training; did you mean 'steps'?"),
    ("  training: {steps: 40}", "  trainin: {steps: 40}", 14, "source.trainin is not a field of source; did you mean 'training'?"),
    ("  training: {steps: 40}", "  init: mean_var", 14, "source.init: mean_var needs a source inside the section source"),
    ("  training: {steps: 40}", "  source: {dataset: digts}", 14, "source.source.dataset must be one of "),
    ("  training: {steps: 40}", "  checkpoint: last", 14, "source.checkpoint must be one of 'best', 'final', got 'last'"),
    ("  training: {steps: 40}", "  file: a.pth", 12, "source must have exactly one of weights, file and dataset (a pretraining), got file and dataset"),
    ("  dataset: digits_0_4\n  training: {steps: 40}", "  {}", 12, "source must have exactly one of weights, file and dataset (a pretraining), got none of them"),
    ("  dataset: digits_0_4\n  training: {steps: 40}", "  digits_0_4", 12, "source must be a mapping, got 'digits_0_4'"),
    ("  dataset: digits_0_4\n  training: {steps: 40}", "  weights: torchvision/ResNet18", 13, "source.weights: no weights are published for cbr_tiny; pretrain it"),
    ("  dataset: digits_0_4\n  training: {steps: 40}", "  file: /a.pth", 13, "source.file must be relative to the data root (TRANSFUSION_DATA) and stay below it, got '/a.pth'"),
    # Axes
    ("  architecture: [", "  architectur: [", 16, "grid.architectur is no axis; did you mean 'architecture'? (axes: architecture, init, dataset"),
    ("  init: [", "  seed: [3]\n  init: [", 17, "grid.seed: the seeds of a study are listed in its section seeds, not on an axis"),
    ("  init: [", "  init.source: [3]\n  init: [", 17, "grid.init.source must be written source"),
    ("  init: [", "  init.depth: [3]\n  init: [", 17, "grid.init.depth must be written transfusion_depth"),
    ("[cbr_tiny, cbr_small]", "resnet18", 16, "grid.architecture must be a list of values with at least one, got 'resnet18'; write [resnet18]"),
    ("[cbr_tiny, cbr_small]", "[]", 16, "grid.architecture must be a list of values with at least one, got []"),
    ("[cbr_tiny, cbr_small]", "[cbr_tiny, cbr_small, cbr_tiny]", 16, "grid.architecture[2] repeats 'cbr_tiny'"),
    ("[cbr_tiny, cbr_small]", "\n  - cbr_tiny\n  - cbr_small\n  - resnet19", 19, "architecture must be one of "),
    ("[random, pretrained,", "[random, pretraind, pretrained,", 17, "init.kind must be one of 'gabor', 'mean_var', 'pretrained', 'random', 'transfusion', got 'pretraind'"),
    ("[random, pretrained,", "[{kind: mean_var, source: 3}, random, pretrained,", 17, "init.source is given in the section source of the file"),
    ("  transfusion_depth: [1, 2]\n", "", 17, "init: transfusion needs a depth; make transfusion_depth an axis, or write {kind: transfusion"),
    ("[1, 2]", "[1, 9]", 18, "transfusion_depth must be at most 4 for cbr_tiny (stages conv1, conv2, conv3, conv4), got 9"),
    ("[1, 2]", "[1, -2]", 18, "transfusion_depth must be at least 0, got -2"),
    ("[1, 2]", "[1, conv7]", 18, "transfusion_depth must be one of 'all', 'conv1', "),
    ("[1, 2]", "evry", 18, "grid.transfusion_depth must be a list of values with at least one, got 'evry'; did you mean 'every'?"),
    (", transfusion]", "]", 18, "grid.transfusion_depth has no effect, for no combination has init: transfusion"),
    ("  init: [", "  training.optimizer.lrr: [3]\n  init: [", 17, "training.optimizer.lrr is not a field of training.optimizer; did you mean 'lr'?"),
    ("  init: [", "  training.optimizer: [{kind: adam, momentum: 0.5}]\n  init: [", 17, "training.optimizer.momentum is not a field of training.optimizer (fields: kind, lr, beta1"),
    ("  init: [", "  dataset.train_fraction: [0.5, 0]\n  init: [", 17, "dataset.train_fraction must be greater than 0, got 0"),
    ("  init: [", "  source.training.steps: [5, -5]\n  init: [", 17, "source.training.steps must be at least 0, got -5"),
    ("  init: [", "  training.steps: [1, true]\n  init: [", 17, "training.steps must be a whole number, got True"),
    ("seeds: [0, 1]", "seeds: 10000", 15, "grid gives 240000 trainings; at most 100000 are allowed"),
    ("[8, 16]", "[8, 16, 32]", 20, "zip[0] must have lists of one length, got training.batch_size 3, training.optimizer.lr 2"),
    ("training.batch_size: [8, 16]\n    training.optimizer.lr: [0.1, 0.2]", "training.batch_size: [8, 16, 8]\n    training.optimizer.lr: [0.1, 0.1, 0.1]", 20, "zip[0].training.batch_size[2] repeats 8 with 0.1"),
    ("[0.1, 0.2]", "[0.1, 1e-3]", 21, "training.optimizer.lr must be a number, got '1e-3' (YAML reads 1e-3 as text; write 1.0e-3)"),
    ("training.batch_size: [8, 16]", "architecture: [cbr_tiny, cbr_small]", 20, "zip[0].architecture is an axis already: grid.architecture"),
    ("training.batch_size: [8, 16]", "transfusion_depth: every", 20, "zip[0].transfusion_depth must be a list of depths; every is for grid only"),
    ("  - training.batch_size: [8, 16]\n  ", "", 19, "zip must be a list, got {"),
    # Rules
    ("where: {architecture:", "where: {architectre:", 23, "exclude[0].where: an axis must be one of 'architecture', 'init', 'seed', "),
    ("init: pretrained}", "init: pretraned}", 23, "exclude[0].where.init must be one of 'pretrained', 'random', 'transfusion', got 'pretraned'; did"),
    ("init: pretrained}", "init: pretrained, transfusion_depth: 1}", 23, "exclude[0].where matches no combination of the grid"),
    ("init: pretrained}", "seed: 7}", 23, "exclude[0].where.seed must be one of '0', '1', got 7"),
    ("    reason: too slow\n", "", 23, "exclude[0].reason is required"),
    ("reason: too slow", "reason: ''", 24, "exclude[0].reason must not be empty"),
    ("set: {init: mean_var}", "set: {init: random, training.batch_size: 8}", 26, "include[0] adds nothing: the study has these trials already"),
    ("set: {init: mean_var}", "set: {init: meanvar}", 26, "init.kind must be one of 'gabor', 'mean_var', "),
    ("set: {init: mean_var}", "set: {init: mean_var, transfusion_depth: 1}", 26, "include[0].set.transfusion_depth has no effect without init: transfusion"),
    ("set: {init: mean_var}", "set: {ini: mean_var}", 26, "include[0].set.ini is no axis; did you mean 'init'?"),
    # How it is run and analysed
    ("  cpu: 1\n", "  cpus: 1\n", 29, "resources.cpus is not a field of resources; did you mean 'cpu'? (fields: cpu, gpu, slots, stack, com"),
    ("  cpu: 1\n", "  gpu: 1.5\n", 29, "resources.gpu must be a fraction below 1 or a whole number, got 1.5"),
    ("  cpu: 1\n", "  slots: 0\n", 29, "resources.slots must be at least 1, got 0"),
    ("{cbr_small: {", "{cbr_smal: {", 30, "resources.by_architecture: a key must be one of "),
    ("keep: [final]", "keep: [last]", 31, "checkpoints.keep[0] must be one of 'best', 'final', 'initial', got 'last'"),
    ("keep: [final]", "series_points: true", 31, "checkpoints.series_points must be a whole number, got True"),
    ("thresholds: {few:", "thresholds: {fw:", 33, "analysis.thresholds: a dataset must be one of "),
    ("thresholds: {few: 0.9}", "baseline: scratch", 33, "analysis.baseline must be one of 'mean_var', 'pretrained', 'random', "),
    ("thresholds: {few: 0.9}", "threshold_metric: auroc", 33, "analysis.threshold_metric must be one of 'val_accuracy', "),
    ("thresholds: {few: 0.9}", "variance_fraction: 99", 33, "analysis.variance_fraction must be at most 1, got 99"),
]  # fmt: skip
