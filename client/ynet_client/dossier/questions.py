"""What only the hospital can answer: the blanks of a data protection impact assessment."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "Purpose and legal basis": (
        "For which purpose does the hospital take part?",
        "On which legal basis are the images processed (GDPR Art. 6 and 9, national law, an ethics vote)?",
        "Who is the controller, and is there a contract with the coordinator and the other hospitals (Art. 26 or 28)?",
    ),
    "Data and patients": (
        "Which patients are in the data set, from which years, and how many?",
        "How were the data chosen, and who decides about new cases?",
        "Are children or other vulnerable people among them?",
        "Do the pixels show names, or faces that can be reconstructed from a scan of the head?",
    ),
    "Rights of the patients": (
        "How were the patients informed, and how can they object?",
        "Who runs ynet-client forget after an objection, and within how many days?",
        "Is it accepted that a model that was trained before an objection stays as it is?",
    ),
    "Receivers": (
        "In which country does the server run, who operates it, and who may read its disk?",
        "In which countries are the other hospitals, and on which basis do data go there (Chapter V)?",
        "Who compared the fingerprints of the other sites, how and when?",
    ),
    "People and machine": (
        "Who are the site's admin and the deputy, and who may accept a plan?",
        "Is the disk encrypted, who has root, and where are backups and their passphrases?",
        "How long must audit logs be kept, and where are copies?",
        "Who is called after an incident, and how does the coordinator hear of it?",
    ),
    "Clinical use": (
        "Is the use limited to research, teaching and looking for similar cases, and how is that made known?",
        "Which rule forbids names in notes of consults?",
    ),
    "Decision": (
        "Which residual risks are accepted, by whom, until when?",
        "What is the opinion of the data protection officer?",
        "Date, name, signature:",
    ),
}
BLANK = "________________"
