"""The dashboard asks for metrics that there are, by labels that they have."""

import json
import re
from pathlib import Path

DASHBOARD = Path("docs/grafana.json")


def test_every_metric_of_the_dashboard_is_served_with_its_labels(partner):
    partner.get("/v1/patients")
    served = partner.http.get("/metrics").text
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [t["expr"] for p in panels for t in p["targets"]]
    names = {name for e in asked for name in re.findall(r"\b(?:ipt|process)_[a-z_]+", e)}
    assert len(panels) == 8
    assert names
    for name in names:
        assert re.search(rf"^{name}[ {{]", served, re.MULTILINE), name
    for label in {label for e in asked for group in re.findall(r"by \(([a-z, ]+)\)", e) for label in group.split(", ")} - {"le"}:
        assert f'{label}="' in served
