"""Tables of scores for people to read."""

from pipelines.evaluation import score_table


def test_a_markdown_table_names_metrics_as_people_do_and_their_rules() -> None:
    scores = {"decoder": {"mit_nss": 3.4751, "mit_kl": 0.3644, "tuebingen_ig": float("nan")}}
    assert score_table.markdown(scores, ("mit_nss", "mit_kl", "tuebingen_ig")).splitlines() == [
        "|  | NSS | KL | IG |",
        "| --- | --- | --- | --- |",
        "| decoder | 3.475 | 0.364 | - |",
        "",
        "Rules: NSS, KL: `mit`; IG: `tuebingen`.",
    ]
