"""The examples in `ynet-lab COMMAND --help`; tests compare each with the command."""

from ynet.runtime.command_line import Examples

EXAMPLES: Examples = {
    "attack": ("ynet-lab attack --model OUT/seed-1/federated --data DIR --report ATTACKS",),
    "demo": ("ynet-lab demo", "ynet-lab demo --data DIR"),
    "plan": ("ynet-lab plan DATA", "ynet-lab plan DATA --out PLAN.yaml"),
    "report": (
        "ynet-lab report OUT --out AGAIN",
        "ynet-lab report OUT OTHER --out TABLE",
    ),
    "simulate": ("ynet-lab simulate --plan plan.yaml --data DIR --seeds 5 --report OUT",),
    "skew": (
        "ynet-lab skew DATA OUT",
        "ynet-lab skew DATA OUT --sites 6 --sizes 40:1 --missing 2 --alone 1 --fold 1/3",
    ),
}
