"""Alarms as log lines and as plain values for `metrics.json`."""

import json

from icce_ray.core.alarms import Alarm
from icce_ray.progress import Progress
from icce_ray.stages.remote_progress import log_alarms


def test_each_alarm_is_a_line_and_a_record():
    said = []
    progress = Progress()
    progress.log = said.append
    alarms = [Alarm("stopped", 0.01, 0.05, "the loss fell by 1%"), Alarm("empty_labels", 2, 0, "2 of 5 labels")]
    found = json.loads(json.dumps(log_alarms(alarms, progress)))
    assert said == ["WARNING: the loss fell by 1%", "WARNING: 2 of 5 labels"]
    assert found[0] == {"name": "stopped", "value": 0.01, "limit": 0.05, "text": "the loss fell by 1%"}
    assert [alarm["name"] for alarm in found] == ["stopped", "empty_labels"]
    assert log_alarms([], progress) == []
