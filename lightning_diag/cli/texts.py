"""What ``--help`` says."""

from __future__ import annotations

RUN = "its log folder, a folder above it, or its history file"

EXAMPLES = """\
examples:
  lightning-diag report lightning_logs/version_3
                                          the verdict on a stored run, and its page again
  lightning-diag watch lightning_logs/version_3
                                          follow it while it trains, from another terminal
  lightning-diag judge lightning_logs/version_3 --fail-on bad
                                          exit with 1 if training is broken, for CI
  lightning-diag check my.training:make   what is wrong with a module before it is trained
  lightning-diag compare lightning_logs/version_3 lightning_logs/version_4
                                          what differs between two runs
  lightning-diag explain dead-relu        what a finding means, and what to do
  lightning-diag rules                    all rules with their thresholds
  lightning-diag figures lightning_logs/version_3 --format svg
                                          the loss and the layers as pictures for a paper
  lightning-diag wandb workspace --entity E --project P
                                          lay out the page of a W&B project
  lightning-diag demo                     three short trainings, files in a temporary folder
  lightning-diag demo --out diagnosis     the same, files in ./diagnosis

lightning-diag COMMAND --help says more of each. It ends with 0 when it was done, with 2 and one
sentence when it could not be. Only `check` and `demo` need torch.
"""

COMMANDS: dict[str, tuple[str, str]] = {
    "report": (
        """\
Print the verdict on a run from its history and write its HTML page again. The history is read
while the run goes on, too, and needs neither torch nor Lightning.
""",
        """\
examples:
  lightning-diag report lightning_logs/version_3
  lightning-diag report lightning_logs/version_3 --out report.html
  lightning-diag report copied/history.jsonl --out .
""",
    ),
    "watch": (
        """\
Follow a run from its history file: step, rate, loss, gradient norm, update ratio, and findings as
they come. It only reads, so it may run beside the training, in another terminal or over ssh, and be
left and started again at will. Without a terminal it prints a line for each change. A run that has
not begun yet is waited for. It ends when the run ends, or with Ctrl-C, which leaves the run alone.
""",
        """\
examples:
  lightning-diag watch lightning_logs/version_3
  ssh gpu7 -t lightning-diag watch /data/runs/version_3 --interval 5
  lightning-diag watch lightning_logs/version_3 > watch.log
""",
    ),
    "judge": (
        """\
Judge a stored run again, from its first record to its last, at the default thresholds or at those
that you set: what would have been found, and when? Nothing is written. Thresholds that the run
itself was judged by are not stored; give them again. What rules of your own have found is kept.

--fail-on counts a severity while it lasts, and a code also when it has passed. Formats other than
text go to standard output: json has all that is known; sarif is read by code hosts; junit by CI
servers, with a test case for each rule; markdown is a summary of at most 2,000 words, for people
and for language models.
""",
        """\
examples:
  lightning-diag judge lightning_logs/version_3 --set dead-relu.fraction=0.3 --mute slow-dataloader
  lightning-diag judge lightning_logs/version_3 --thresholds diag.toml
  lightning-diag judge lightning_logs/version_3 --fail-on suspect --format junit > diag.xml
  lightning-diag judge lightning_logs/version_3 --format markdown

diag.toml:
  mute = ["slow-dataloader", "dead-relu:net.3*"]
  [dead-relu]
  fraction = 0.3
""",
    ),
    "check": (
        """\
Check a module and its data before training, in seconds. FACTORY is called without arguments and
returns a LightningModule, or a pair of one and its data: training's loader, a pair of training's
and validation's, or a LightningDataModule. Without data the module is asked for its loaders.
Formats and exit codes are those of `judge`.
""",
        """\
examples:
  lightning-diag check my.training:make
  lightning-diag check train.py:make --level full
  lightning-diag check train.py:make --only initial-loss --only parameters
  lightning-diag check train.py:make --fail-on suspect --format junit > checks.xml
""",
    ),
    "compare": (
        """\
Say what differs between runs: findings, losses, settings, and the numbers of each layer, those that
differ most first. The first run is what the others are compared with.
""",
        """\
examples:
  lightning-diag compare lightning_logs/version_3 lightning_logs/version_4
  lightning-diag compare before/ after/ --out compare.html
""",
    ),
    "explain": (
        """\
Print what a finding means: what its rule sees, why it matters, what to do, what it may come from,
and its thresholds. Without a code, list all that can be found.
""",
        """\
examples:
  lightning-diag explain
  lightning-diag explain vanishing-gradient
""",
    ),
    "rules": (
        """\
List all rules: code, severities that it may have, thresholds with their defaults, and what it looks
for. `lightning-diag explain CODE` says what each threshold means.
""",
        """\
examples:
  lightning-diag rules
  lightning-diag rules --format json
  lightning-diag rules --format markdown > rules.md
""",
    ),
    "figures": (
        """\
Draw the loss, and a heat map and a profile along depth of each number by layer, as pictures for
papers and slides. It needs matplotlib: pip install 'lightning-diag[plots]'.
""",
        """\
examples:
  lightning-diag figures lightning_logs/version_3
  lightning-diag figures lightning_logs/version_3 --out paper/figures --format svg
""",
    ),
    "demo": (
        """\
Train three small networks on scikit-learn's handwritten digits, watched by Doctor: a healthy
one, a deep one of sigmoids, and one with a learning rate that kills units. Takes about a minute.
""",
        """\
examples:
  lightning-diag demo
  lightning-diag demo --out diagnosis --seed 1
""",
    ),
    "wandb": (
        """\
Lay out the page of a W&B project once for all its runs: a saved workspace with the sections in
which Doctor logs, and heat maps of the layers as charts. Prints where it is. Where W&B is offline
(WANDB_MODE), nothing is sent, and what would be sent is printed as JSON. It needs
wandb-workspaces: pip install 'lightning-diag[workspace]'.
""",
        """\
examples:
  lightning-diag wandb workspace --entity my-team --project digits
  lightning-diag wandb workspace --entity my-team --project digits --dry-run
  lightning-diag wandb workspace --entity my-team --project digits --out workspace.json
""",
    ),
    "completion": (
        """\
Print a script that makes a shell complete commands, options, codes and paths.
""",
        """\
examples:
  lightning-diag completion bash > ~/.local/share/bash-completion/completions/lightning-diag
  lightning-diag completion zsh > ~/.zfunc/_lightning-diag    # a folder of your fpath
  lightning-diag completion fish > ~/.config/fish/completions/lightning-diag.fish
""",
    ),
}
"""Of each command, what it does and how it is called."""
