"""The examples that `ynet-client COMMAND --help` shows; tests parse each with its command."""

from ynet.runtime.command_line import Examples

EXAMPLES: Examples = {
    "audit show": ("ynet-client audit show", "ynet-client audit show --json"),
    "audit verify": ("ynet-client audit verify",),
    "backup": (
        "ynet-client backup A.tar --encrypt",
        "ynet-client backup /backup/A.tar --passphrase-file /root/word --site A",
    ),
    "check": (
        "ynet-client check --data /data/manifest.csv",
        "ynet-client check --data /data/manifest.csv --plan plan.yaml",
    ),
    "config show": ("ynet-client config show", "ynet-client config show --site A --json"),
    "consult answer": ('ynet-client consult answer 8a17f0 yes --text "Benign; followed for two years"',),
    "consult list": ("ynet-client consult list",),
    "consult send": ('ynet-client consult send 3f9c21 --note "How did it go on?"',),
    "doctor": ("ynet-client doctor --site A",),
    "dossier": (
        "ynet-client dossier",
        "ynet-client dossier --out dossier.md",
        "ynet-client dossier --site A --json",
    ),
    "egress": ("ynet-client egress", "ynet-client egress --json"),
    "forget": ("ynet-client forget --patient -", "ynet-client forget --patient 4711"),
    "index": ("ynet-client index", "ynet-client index --verify"),
    "join": (
        "ynet-client join --site A --data /data/manifest.csv --invitation -",
        "ynet-client join --site A --data /data/manifest.csv --invitation @/run/secrets/invitation",
        "ynet-client join --site A",
        "ynet-client join --site A --service",
    ),
    "ledger": ("ynet-client ledger",),
    "plan accept": ("ynet-client plan accept 6b98b49ba0799dcc",),
    "plan decline": ("ynet-client plan decline 6b98b49ba0799dcc",),
    "plan list": ("ynet-client plan list", "ynet-client plan list --json"),
    "import": (
        "ynet-client import --dicom /export/mammo --labels labels.csv --out /data/mammo",
        'ynet-client import --dicomweb https://pacs/dicom-web --query "Modality=MR" --labels labels.csv --out /data/mr',
    ),
    "query": (
        "ynet-client query IMAGE.png -k 10 --picture result.png",
        "ynet-client query IMAGE.png --label benign --since 2024-01-01",
        "ynet-client query *.png --sites B,C --json",
    ),
    "restore": ("ynet-client restore A.tar --site A",),
    "segment": (
        "ynet-client segment IMAGE.dcm --out lesion.dcm",
        "ynet-client segment IMAGE.dcm --out lesion.dcm --store https://pacs/dicom-web",
    ),
    "sites list": ("ynet-client sites list", "ynet-client sites list --json"),
    "sites distrust": ("ynet-client sites distrust B",),
    "sites trust": (
        'ynet-client sites trust B --fingerprint "3f9c 21d0 77ae 0b15 c2d4 98e1 6a5f 4410"',
        "ynet-client sites trust --all",
    ),
    "status": ("ynet-client status", "ynet-client status --site A --json"),
    "user add": ("ynet-client user add ada --role radiologist",),
    "user list": ("ynet-client user list", "ynet-client user list --json"),
    "user password": ("ynet-client user password ada",),
    "user remove": ("ynet-client user remove ada",),
    "workbench": ("ynet-client workbench --open",),
}
