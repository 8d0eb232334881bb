"""States, transitions, ids and times."""

from __future__ import annotations

import pytest

from engine.errors import Problem
from service import jobs
from service.errors import conflict, invalid_spec, not_found
from service.settings import Settings, describe


def test_terminal_states_never_change():
    assert {"succeeded", "failed", "cancelled"} == jobs.TERMINAL
    for old in jobs.TERMINAL:
        for new in jobs.STATES:
            with pytest.raises(jobs.IllegalTransition):
                jobs.transition(old, new)


def test_every_state_is_reached_from_queued_and_reaches_an_end():
    reached = {"queued"}
    while (more := reached | {new for old in reached for new in jobs.allowed(old)}) != reached:
        reached = more
    assert reached == set(jobs.STATES)
    assert all(jobs.TRANSITIONS[state] or state in jobs.TERMINAL for state in jobs.STATES)
    assert all(after in jobs.allowed(before) for before, after in jobs.LET_GO.items()) and set(jobs.LET_GO) == jobs.HELD


def test_ids_rise_with_time_and_have_26_characters(monkeypatch: pytest.MonkeyPatch):
    ids = [jobs.new_id("job") for _ in range(1000)]
    monkeypatch.setattr(jobs, "seconds_now", lambda: 1.0)
    ids += [jobs.new_id("job") for _ in range(10)]      # the clock steps back to 1970
    assert ids == sorted(ids) and len(set(ids)) == len(ids)
    assert {len(one) for one in ids} == {len("job_") + 26}


def test_times_are_utc_with_milliseconds_and_read_back():
    assert jobs.iso(1700000000.1234) == "2023-11-14T22:13:20.123Z"
    assert jobs.seconds_of(jobs.iso(1700000000.5)) == 1700000000.5


def test_a_number_or_an_event_id_names_the_same_event():
    job_id = jobs.new_id("job")
    assert jobs.event_seq(jobs.event_id(job_id, 17)) == jobs.event_seq("17") == 17
    for nonsense in ("", "abc", "-1"):
        with pytest.raises(ValueError):
            jobs.event_seq(nonsense)


def test_errors_have_one_shape():
    problem = Problem("/model/layers/0/kind", "unknown_kind", "no layer is called 'dens'", "dense")
    body = invalid_spec([problem]).as_dict("/v1/jobs")
    assert body == {"type": "/docs/errors#invalid_spec", "title": "The job cannot be run as written", "status": 422, "detail": "1 error",
                    "instance": "/v1/jobs", "code": "invalid_spec",
                    "errors": [problem.as_dict()]}
    assert not_found("job", "job_1").as_dict("/v1/jobs/job_1")["status"] == 404
    refused = conflict("no", allowed=["cancelled"])
    assert refused.headers == {"x-should-retry": "false"} and refused.as_dict("/")["allowed"] == ["cancelled"]


def test_every_setting_is_an_environment_variable_with_a_description(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    monkeypatch.setenv("TRAINYARD_WORKERS", "3")
    settings = Settings()
    assert settings.workers == 3 and settings.store_url == f"sqlite:///{tmp_path}/trainyard.db"
    assert all(row["description"] and row["name"].startswith("TRAINYARD_") for row in describe())
