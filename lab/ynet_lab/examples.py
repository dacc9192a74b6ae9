"""The examples in `ynet-lab COMMAND --help`; tests compare each with the command."""

from ynet.runtime.command_line import Examples

EXAMPLES: Examples = {
    "attack": ("ynet-lab attack --model OUT/seed-1/federated --data DIR --report ATTACKS",),
    "demo": ("ynet-lab demo", "ynet-lab demo --data DIR"),
    "simulate": ("ynet-lab simulate --plan plan.yaml --data DIR --seeds 5 --report OUT",),
}
