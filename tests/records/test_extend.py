"""A sweep that exists: extended, retried, watched, tidied up, and one trial looked at. No Ray here."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.api.reproduce import compare_results
from orchestrator.cli.views import history
from orchestrator.cli.views.trial import sparkline
from orchestrator.errors import SweepError
from orchestrator.execution.options import RunOptions
from orchestrator.execution.run import run_sweep
from orchestrator.records.checkpoints import find_checkpoint
from orchestrator.records.events import trial_events
from orchestrator.records.extend import Extension, current, extend, extended, extension_between, retry
from orchestrator.records.index import find_trial, load_definition, new_head, trial_folder
from orchestrator.records.reader import read_trial, read_trials
from orchestrator.records.retention import Stored, least_useful, parse_bytes, prune_sweeps
from orchestrator.records.reuse import ShorterTrials
from orchestrator.records.schema import AttemptEnd, AttemptStart, DatasetInfo, Row, Status, StopDecision, TrialResult
from orchestrator.records.writer import TrialWriter
from orchestrator.search.planner import Planner
from orchestrator.storage import Storage, open_storage
from orchestrator.storage.base import to_json_bytes
from orchestrator.storage.lease import Lease
from orchestrator.sweep import Sweep, choice
from orchestrator.sweep.domains import Uniform
from orchestrator.sweep.settings import parse_assignments
from orchestrator.sweep.trials import PlannedTrial, control_trials, search_trial, study_trials
from tests.support.commands import call
from tests.support.sweeps import fingerprint, record_of, search, study, tiny_config
from trm_data.errors import ConfigError


def announce(storage: Storage, sweep: Sweep, trial: PlannedTrial) -> None:
    dataset = DatasetInfo(benchmark="sudoku-4x4", fingerprint=fingerprint(trial.config.data.request()))
    head = new_head(trial.stage, trial.family, trial.config, dataset)
    trial_folder(storage, sweep.name, trial.trial_id).write("trial.json", head.encode())


def ran(storage: Storage, sweep: Sweep, trial: PlannedTrial, status: Status, value: float = 0.5) -> None:
    """A trial's record as if it had run, with two checkpoints of 100 bytes."""
    announce(storage, sweep, trial)
    writer = TrialWriter(storage, sweep.name, trial.trial_id)
    writer.start(AttemptStart(from_step=0, started_s=1000.0 + value, host="here", device="cpu"))
    writer.add(Row(4, 1010.0, "validation", {"exact_accuracy": value, "raw_cell_accuracy": value}))
    writer.flush()
    for step in (4, 8):
        writer.checkpoints.write(f"step-{step:08d}.safetensors", bytes(100))
    if status is Status.FINISHED:
        metrics = {"exact_accuracy": value, "cell_accuracy": value}
        result = {"split": "validation", "items": 16, "metrics": metrics, "train_s": 1.0, "ended_s": 1020.0}
        writer.finish(TrialResult.parse({**result, "train_flops": 1.0, "per_item": "ff"}), {})
    if status is Status.STOPPED:
        writer.folder.write("stopped.json", StopDecision(step=4, rule="halving", reason="rank 4 of 4").encode())
    elif status is not Status.RUNNING:
        trace = "Traceback: boom" if status is Status.FAILED else ""
        writer.end(AttemptEnd(status=status, step=8, ended_s=1021.0, train_s=1.0, reason="r", traceback=trace))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "runs"))


def recorded_study(storage: Storage, *statuses: Status) -> list[str]:
    """A study's first trials with these ends; their ids in that order."""
    sweep = study()
    storage.write("sweeps/study/sweep.json", to_json_bytes(sweep.plain()))
    trials = list(study_trials(sweep, fingerprint))[: len(statuses)]
    for number, (trial, status) in enumerate(zip(trials, statuses, strict=True)):
        ran(storage, sweep, trial, status, value=number / 10)
    return [trial.trial_id for trial in trials]


class TestExtend:
    @pytest.mark.parametrize(
        ("sweep", "more", "problem"),
        [
            (study(), Extension(), "nothing to extend by"),
            (study(), Extension(trials=9), "it runs every cell"),
            (study(), Extension(seeds=2), "no more than the 2"),
            (study(), Extension(max_steps=12), "no more than the 12"),
            (search(), Extension(trials=5), "no more than the 5"),
            (
                search(space={"lr": Uniform(low=0.1, high=1)}),
                Extension(vary={"lr": (2.0,)}),
                "range cannot be extended",
            ),
        ],
    )
    def test_what_cannot_be_extended_is_said(self, sweep: Sweep, more: Extension, problem: str) -> None:
        with pytest.raises(SweepError, match=problem):
            extended(sweep, more)

    def test_more_values_keep_the_old_cells_and_a_new_axis_starts_with_the_base(self) -> None:
        before = {trial.trial_id for trial in study_trials(study(), fingerprint)}
        wider = extended(study(), Extension(vary={"T": (3, 2), "lr": (0.5,)}, seeds=3))
        after = {trial.trial_id for trial in study_trials(wider, fingerprint)}
        assert before < after and len(after) == 3 * 2 * 2 * 3

    def test_of_what_an_older_version_recorded_only_what_is_added_is_checked(self, storage: Storage) -> None:
        space = {"runtime.evaluate_every": choice(2, 4).plain(), **study().plain()["space"]}
        recorded = Sweep.from_record({**study(seeds=1).plain(), "space": space})
        storage.write("sweeps/study/sweep.json", to_json_bytes(recorded.plain()))
        wider = extend(storage, "study", Extension(seeds=2, vary={"T": (1, 3)}))
        assert load_definition(storage, "study") == wider
        before, after = ({t.trial_id for t in study_trials(each, fingerprint)} for each in (recorded, wider))
        assert before < after and len(after) == 3 * 2 * 2
        for more, problem in (
            (Extension(vary={"runtime.evaluate_every": (8,)}), "runtime.evaluate_every does not change a result"),
            (Extension(vary={"runtime.num_threads": (8,)}), "runtime.num_threads does not change a result"),
            (Extension(vary={"T": (0,)}), "model.cycles=0"),
            (Extension(seeds=10**8), "more than 10,000,000 trials"),
        ):
            with pytest.raises(ConfigError, match=problem):
                extended(recorded, more)

    @settings(max_examples=30, deadline=None)
    @given(
        trials=st.none() | st.integers(6, 9),
        seeds=st.none() | st.integers(3, 5),
        steps=st.none() | st.integers(13, 20),
        values=st.none() | st.sets(st.integers(4, 6), min_size=1),
    )
    def test_the_options_that_lead_from_one_definition_to_the_other_are_found(
        self, trials: int | None, seeds: int | None, steps: int | None, values: set[int] | None
    ) -> None:
        vary = {"model.cycles": tuple(sorted(values))} if values else {}
        more = Extension(trials=trials, seeds=seeds, max_steps=steps, vary=vary)
        old = search()
        if more == Extension():
            assert extension_between(old, old) == []
        else:
            assert extension_between(old, extended(old, more)) == more.options()

    def test_what_an_extension_cannot_reach_has_no_options(self) -> None:
        assert extension_between(study(), study(base=tiny_config(**{"optimizer.lr": 0.5}))) == []
        assert extension_between(study(seeds=2), study(seeds=1)) == []

    def test_the_options_of_an_extension_can_be_pasted(self, storage: Storage) -> None:
        """Lists are JSON, and the storage is named."""
        betas = ((0.9, 0.95), (0.9, 0.99), (0.8, 0.9))
        old, new = (study(space={"optimizer.betas": choice(*values)}) for values in (betas[:1], betas))
        storage.write("sweeps/study/sweep.json", to_json_bytes(old.plain()))
        with pytest.raises(SweepError) as caught:
            run_sweep(new, storage, RunOptions())
        command = caught.value.remedy.partition("Extend the recorded one: ")[2]
        *words, option, vary, flag, place = shlex.split(command)
        assert words == ["trm", "sweep", "extend", "study"]
        assert (option, flag, place) == ("--vary", "--storage", storage.url)
        assert parse_assignments([vary], "--vary") == {"optimizer.betas": [(0.9, 0.99), (0.8, 0.9)]}

    def test_a_longer_search_goes_on_with_what_it_explored_and_keeps_the_rest_apart(self, storage: Storage) -> None:
        sweep = search()
        storage.write("sweeps/search/sweep.json", to_json_bytes(sweep.plain()))
        first = Planner(sweep, fingerprint, [])
        for status in (Status.FINISHED, Status.STOPPED, Status.DIVERGED):
            trial = first.next()
            assert trial is not None
            ran(storage, sweep, trial, status)
        wider = extend(storage, "search", Extension(max_steps=24, trials=6))
        assert load_definition(storage, "search") == wider
        assert json.loads(storage.read("sweeps/search/history/001.json"))["trials"] == 5

        records = read_trials(storage, "search")
        now = current(wider, records)
        assert len(records) == 5 and len(now) == 2, "the diverged one is not lengthened"
        assert {record.status for record in now} == {Status.PENDING}
        shorter = ShorterTrials(records)
        for record in now:
            found = shorter.of(record.config)
            assert record.origin and found and found.trial_id == record.origin.trial_id
        planner = Planner(wider, fingerprint, now)
        assert {planner.next().trial_id, planner.next().trial_id} == {r.trial_id for r in now}  # type: ignore[union-attr]
        assert planner.total == 6 + 2 * 2

    @pytest.mark.parametrize(
        ("setting", "goes_on"),
        [({}, True), ({"optimizer.lr_min_ratio": 0.1}, False), ({"train.depth_curriculum": ((0.5, 1, 1),)}, False)],
    )
    def test_only_steps_that_do_not_depend_on_the_length_are_taken_over(
        self, setting: dict[str, Any], goes_on: bool
    ) -> None:
        short = search_trial(search(base=tiny_config(**setting)), fingerprint, "a", {"T": 1})
        long = search_trial(search(base=tiny_config(**setting, **{"train.max_steps": 24})), fingerprint, "a", {"T": 1})
        other = search_trial(search(base=tiny_config(**setting, **{"train.max_steps": 24})), fingerprint, "a", {"T": 2})
        shorter = ShorterTrials([record_of(short, Status.FINISHED)])
        assert (shorter.of(long.config) is not None) == goes_on
        assert shorter.of(other.config) is None and shorter.of(short.config) is None

    def test_a_running_sweep_is_left_alone(self, storage: Storage) -> None:
        recorded_study(storage)
        with Lease(storage.sub("sweeps/study"), "study"):
            for change in (lambda: extend(storage, "study", Extension(seeds=3)), lambda: retry(storage, "study")):
                with pytest.raises(SweepError, match=f"is being run by .*stop study --storage {storage.url}`"):
                    change()
        assert load_definition(storage, "study") == study()


class TestRetry:
    def test_failed_trials_go_again_and_the_record_remembers(self, storage: Storage) -> None:
        ids = recorded_study(storage, Status.FAILED, Status.FINISHED, Status.OUT_OF_MEMORY, Status.STOPPED)
        assert {record.trial_id for record in retry(storage, "study")} == {ids[0], ids[2]}
        statuses = {record.trial_id: record.status for record in read_trials(storage, "study")}
        wanted = [Status.INTERRUPTED, Status.FINISHED, Status.INTERRUPTED, Status.STOPPED]
        assert [statuses[key] for key in ids] == wanted
        record = read_trial(storage, "study", ids[0])
        assert record.retries[0].was is Status.FAILED and record.attempts[0].end and not record.is_exempt
        assert retry(storage, "study") == []

    def test_a_second_failure_counts_again(self, storage: Storage) -> None:
        (trial_id,) = recorded_study(storage, Status.FAILED)
        retry(storage, "study")
        writer = TrialWriter(storage, "study", trial_id)
        writer.start(AttemptStart(from_step=8, started_s=0.0))
        writer.end(AttemptEnd(status=Status.FAILED, step=9, ended_s=1.0, reason="again"))
        assert read_trial(storage, "study", trial_id).status is Status.FAILED
        assert len(retry(storage, "study")) == 1
        assert len(read_trial(storage, "study", trial_id).retries) == 2

    def test_a_stopped_trial_goes_on_when_it_is_named_and_is_exempt_from_then_on(self, storage: Storage) -> None:
        (trial_id,) = recorded_study(storage, Status.STOPPED)
        retry(storage, "study", [trial_id[:6]])
        record = read_trial(storage, "study", trial_id)
        assert record.is_exempt and not record.status.is_final and record.stopped is None

    def test_a_trial_that_is_named_twice_goes_again_once(self, storage: Storage) -> None:
        (trial_id,) = recorded_study(storage, Status.FAILED)
        assert [each.trial_id for each in retry(storage, "study", [trial_id, trial_id[:6], "last"])] == [trial_id]
        assert len(read_trial(storage, "study", trial_id).retries) == 1

    def test_who_needs_no_retry_is_refused(self, storage: Storage) -> None:
        (trial_id,) = recorded_study(storage, Status.FINISHED)
        with pytest.raises(SweepError, match="is finished"):
            retry(storage, "study", [trial_id])
        with pytest.raises(SweepError, match="has no trial 'zzz'"):
            retry(storage, "study", ["zzz"])

    def test_the_last_trial_may_be_named_by_that_word(self, storage: Storage) -> None:
        ids = recorded_study(storage, Status.FAILED, Status.FAILED, Status.FAILED)
        [last] = retry(storage, "study", ["last"])
        assert last.trial_id == find_trial(storage, "study/last").trial_id in ids
        with pytest.raises(SweepError, match=r"no trial of 'study' has finished with exact_accuracy\. Take study/last"):
            retry(storage, "study", ["study/best"])


class TestLastAndBest:
    """`SWEEP/last` and `SWEEP/best`, wherever a trial's id is accepted."""

    def test_of_a_study(self, storage: Storage) -> None:
        sweep = study()
        storage.write("sweeps/study/sweep.json", to_json_bytes(sweep.plain()))
        trials = list(study_trials(sweep, fingerprint))[:3]
        for trial, value in zip(trials, (0.5, 0.9, 0.7), strict=True):
            ran(storage, sweep, trial, Status.FINISHED, value)
        assert find_trial(storage, "study/best").trial_id == trials[1].trial_id
        assert find_trial(storage, "study/last").trial_id == trials[1].trial_id  # its attempt started last
        assert find_checkpoint("study/best", storage).where == f"study/{trials[1].trial_id} at step 8"

    def test_best_of_a_search_is_what_the_search_would_choose(self, storage: Storage) -> None:
        sweep = search()
        storage.write("sweeps/search/sweep.json", to_json_bytes(sweep.plain()))
        explored = [search_trial(sweep, fingerprint, "", {"model.cycles": cycles}) for cycles in (1, 2)]
        [confirmed, *_] = control_trials(sweep, fingerprint)
        for trial, value in zip((*explored, confirmed), (0.4, 0.6, 0.9), strict=True):
            ran(storage, sweep, trial, Status.FINISHED, value)
        assert find_trial(storage, "search/best").trial_id == explored[1].trial_id
        assert find_trial(storage, "search/last").trial_id == confirmed.trial_id

    def test_of_trm_train_which_has_no_definition(self, storage: Storage) -> None:
        sweep = study(name="other")
        trial = next(study_trials(sweep, fingerprint))
        ran(storage, sweep.model_copy(update={"name": "train"}), trial, Status.STOPPED)
        assert find_trial(storage, "train/last").trial_id == trial.trial_id
        with pytest.raises(SweepError, match="no trial of 'train' has finished"):
            find_trial(storage, "train/best")

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("last", "'last' needs the name of a sweep. Write train/last or SWEEP/last"),
            ("nowhere/best", "no trial of a sweep 'nowhere'"),
            ("train/last", "no trial of a sweep 'train'"),
        ],
    )
    def test_nothing_to_find_is_said(self, storage: Storage, address: str, message: str) -> None:
        with pytest.raises(SweepError, match=message):
            find_trial(storage, address)


class TestPrune:
    @pytest.mark.parametrize(
        ("text", "count"), [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("10", 10), ("7mb", 7 * 10**6)]
    )
    def test_amounts_are_read(self, text: str, count: int) -> None:
        assert parse_bytes(text) == count

    @pytest.mark.parametrize("text", ["", "GB", "2XB", "-1GB", "2 G B"])
    def test_what_is_no_amount_is_refused(self, text: str) -> None:
        with pytest.raises(SweepError, match="not an amount of bytes"):
            parse_bytes(text)

    def test_least_useful_go_first_and_records_stay(self, storage: Storage) -> None:
        failed, worse, better, running = recorded_study(
            storage, Status.FAILED, Status.FINISHED, Status.FINISHED, Status.RUNNING
        )
        order = [
            (failed, 4), (failed, 8), (worse, 4), (better, 4), (running, 4), (worse, 8), (better, 8)
        ]  # fmt: skip
        keys = [f"sweeps/study/trials/{trial}/checkpoints/step-{step:08d}.safetensors" for trial, step in order]
        before = read_trials(storage, "study")
        for keep, gone in ((800, 0), (799, 1), (500, 3), (250, 6), (100, 7), (0, 7)):
            done = prune_sweeps(storage, ["study"], keep, dry_run=True)
            assert [one.key for one in done.deleted] == keys[:gone]
            assert done.kept_bytes == 800 - 100 * gone
        assert len(storage.list("sweeps/study")) > 8
        prune_sweeps(storage, ["study"], 300)
        left = [key for key in storage.list("sweeps") if key.endswith(".safetensors")]
        assert sorted(left) == sorted(
            [*keys[5:], f"sweeps/study/trials/{running}/checkpoints/step-00000008.safetensors"]
        )
        assert read_trials(storage, "study") == before

    def test_checkpoints_of_a_damaged_trial_stay_and_are_counted(self, storage: Storage) -> None:
        damaged, _ = recorded_study(storage, Status.FINISHED, Status.FINISHED)
        storage.write(f"sweeps/study/trials/{damaged}/trial.json", b"{")
        done = prune_sweeps(storage, ["study"], 1, dry_run=True)
        assert done.kept_bytes == 200 and not any(damaged in one.key for one in done.deleted)

    def test_the_base_of_a_large_table_counts_and_goes_with_the_last_that_needs_it(self, storage: Storage) -> None:
        done, running = recorded_study(storage, Status.FINISHED, Status.RUNNING)
        bases = [f"sweeps/study/trials/{trial}/checkpoints/base-00000002.safetensors" for trial in (done, running)]
        for key in bases:
            storage.write(key, bytes(1000))
        copied = bases[0].replace(".safetensors", " (copy).safetensors")
        storage.write(copied, bytes(1000))  # somebody's own: neither counted nor deleted
        assert prune_sweeps(storage, ["study"], 2300).kept_bytes == 2300
        assert [key for key in bases if storage.exists(key)] == bases
        assert prune_sweeps(storage, ["study"], 0).kept_bytes == 1100
        assert [key for key in bases if storage.exists(key)] == bases[1:] and storage.exists(copied)

    @settings(max_examples=50, deadline=None)
    @given(data=st.data(), keep=st.integers(0, 2000))
    def test_never_more_goes_than_must_and_unfinished_trials_can_go_on(self, data: st.DataObject, keep: int) -> None:
        statuses = data.draw(st.lists(st.sampled_from(list(Status)), min_size=1, max_size=6))
        trials = list(study_trials(study(), fingerprint))
        records = [record_of(trial, status, step=8) for trial, status in zip(trials, statuses, strict=False)]
        sizes = {
            (record.sweep, record.trial_id): [
                Stored(f"{record.trial_id}/{index}", data.draw(st.integers(1, 300))) for index in range(3)
            ]
            for record in records
        }
        total = sum(one.num_bytes for stored in sizes.values() for one in stored)
        done = least_useful(records, sizes, keep)
        assert done.kept_bytes == total - sum(one.num_bytes for one in done.deleted)
        if done.deleted:
            assert done.kept_bytes + done.deleted[-1].num_bytes > keep
        gone = {one.key for one in done.deleted}
        for record in records:
            if not record.status.is_final:
                assert f"{record.trial_id}/2" not in gone

    def test_a_running_sweep_keeps_everything(self, storage: Storage) -> None:
        recorded_study(storage, Status.FINISHED)
        storage.write("sweeps/other/sweep.json", to_json_bytes(study(name="other").plain()))
        with Lease(storage.sub("sweeps/study"), "study"):
            with pytest.raises(SweepError, match="is being run"):
                prune_sweeps(storage, ["study"], 0)
            for dry_run in (True, False):
                assert prune_sweeps(storage, ["study", "other"], 0, dry_run=dry_run).kept_bytes == 200


class TestLogs:
    def test_everything_is_told_in_order_with_reasons_and_tracebacks(self, storage: Storage) -> None:
        failed, _, stopped = recorded_study(storage, Status.FAILED, Status.FINISHED, Status.STOPPED)
        events = trial_events(read_trials(storage, "study"), rows=True)
        assert [event.time_s for event in events] == sorted(event.time_s for event in events)
        by_kind = {(event.trial_id, event.kind): event for event in events}
        assert by_kind[failed, "ended"].detail == "Traceback: boom"
        assert "rank 4 of 4" in by_kind[stopped, "stopped"].text
        assert sum(event.kind == "finished" for event in events) == 1
        assert sum(event.kind == "evaluated" for event in events) == 3

    def test_a_trial_whose_puzzles_have_no_known_answer_has_finished_too(self, storage: Storage) -> None:
        (trial,) = recorded_study(storage, Status.FINISHED)
        unscored = TrialResult(split="test", items=0, unscored=16, metrics={})
        storage.write(f"sweeps/study/trials/{trial}/result.json", unscored.encode())
        assert "finished: no answer is known" in [event.text for event in trial_events(read_trials(storage, "study"))]

    def test_following_tells_each_event_once_and_ends_with_the_driver(self, storage: Storage) -> None:
        sweep = study()
        recorded_study(storage, Status.FINISHED)
        later = list(study_trials(sweep, fingerprint))[1]
        lock = Lease(storage.sub("sweeps/study"), "study")
        lock.__enter__()
        looks = iter(range(10))

        def sleep(_: float) -> None:
            if next(looks) == 1:
                ran(storage, sweep, later, Status.FINISHED)
                lock.__exit__()

        events = list(history.new_events(storage, "study", [], sleep))
        assert len(events) == len(set(events))
        assert {event.trial_id for event in events if event.kind == "finished"} == {
            record.trial_id for record in read_trials(storage, "study")
        }

    def test_following_says_what_is_waited_for_before_the_first_event(
        self, storage: Storage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sweep = study()
        storage.write("sweeps/study/sweep.json", to_json_bytes(sweep.plain()))
        first = next(iter(study_trials(sweep, fingerprint)))
        lock = Lease(storage.sub("sweeps/study"), "study")
        lock.__enter__()
        looks = iter(range(100))

        def sleep(_: float) -> None:
            look = next(looks)
            if look == 16:  # after half a minute
                ran(storage, sweep, first, Status.FINISHED)
            if look == 40:
                lock.__exit__()

        history.follow(storage, "study", [], as_json=True, sleep=sleep)
        out, err = capsys.readouterr()
        told = [line.split(":")[0].strip() for line in err.splitlines() if "starts the first trial" in line]
        assert told == ["16 s", "30 s"] and '"finished"' in out

    def test_the_commands_print_text_and_json(self, storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
        failed, _ = recorded_study(storage, Status.FAILED, Status.FINISHED)
        code, out, _ = call(capsys, "sweep", "logs", "study", failed[:6], "--storage", storage.url)
        assert code == 0 and "Traceback: boom" in out and "finished" not in out
        code, out, _ = call(capsys, "sweep", "logs", "study", "--follow", "--json", "--storage", storage.url)
        kinds = [json.loads(line)["kind"] for line in out.splitlines()]
        assert code == 0 and kinds.count("started") == 2 and kinds.count("finished") == 1
        code, out, _ = call(capsys, "sweep", "watch", "study", "--storage", storage.url)
        assert code == 0 and "is not running" in out
        code, out, _ = call(capsys, "sweep", "status", "--storage", storage.url)
        assert code == 0 and " not running " in out


class TestTrial:
    def test_a_trial_is_found_by_its_first_digits(self, storage: Storage) -> None:
        first, second = recorded_study(storage, Status.FINISHED, Status.FAILED)
        assert find_trial(storage, first).trial_id == find_trial(storage, f"study/{first[:8]}").trial_id == first
        with pytest.raises(SweepError, match="'study' has 2 trials that begin with ''"):
            find_trial(storage, "study/")
        with pytest.raises(SweepError, match="no trial"):
            find_trial(storage, second + "0")
        with pytest.raises(SweepError, match=r"no trial of a sweep 'studdy' .*Did you mean 'study'"):
            find_trial(storage, f"studdy/{first}")

    def test_a_trial_that_several_sweeps_have_is_found_in_the_first(self, storage: Storage) -> None:
        (trial_id,) = recorded_study(storage, Status.FINISHED)
        for key in storage.list("sweeps/study"):
            storage.write(key.replace("sweeps/study/", "sweeps/another/"), storage.read(key))
        assert find_trial(storage, trial_id[:6]).sweep == "another"
        assert find_trial(storage, f"study/{trial_id[:6]}").sweep == "study"

    def test_show_says_what_differs_from_the_base_and_why_it_failed(
        self, storage: Storage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ids = recorded_study(storage, Status.FAILED, Status.FINISHED, Status.FAILED, Status.FAILED)
        code, out, _ = call(capsys, "trial", "show", ids[-1], "--storage", storage.url)
        assert code == 0 and "model.cycles: 1 -> 2" in out and "Traceback: boom" in out and "failed at step" in out
        code, out, _ = call(capsys, "trial", "show", ids[1], "--storage", storage.url, "--json")
        found = json.loads(out)
        assert found["curve"] == [[4, 0.1]] and found["result"]["items"] == 16 and "per_item" not in found["result"]

    def test_only_a_finished_trial_is_reproduced(self, storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
        (trial_id,) = recorded_study(storage, Status.FAILED)
        code, _, err = call(capsys, "trial", "reproduce", trial_id, "--storage", storage.url)
        assert code == 2 and "is failed" in err and err.count("\n") == 1

    def test_comparison_knows_every_score_and_every_answer(self) -> None:
        first = TrialResult(split="test", items=8, metrics={"exact_accuracy": 0.5, "loss": 1.0}, per_item="f0")
        assert compare_results(first, first).bitwise
        moved = compare_results(first, first.model_copy(update={"metrics": {"exact_accuracy": 0.5, "loss": 1.25}}))
        assert not moved.bitwise and moved.largest_difference == 0.25 and moved.same_answers
        other = compare_results(first, first.model_copy(update={"per_item": "0f"}))
        assert not other.bitwise and other.largest_difference == 0 and not other.same_answers

    def test_a_curve_in_a_line(self) -> None:
        assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "".join(chr(0x2581 + level) for level in range(8))
        assert sparkline([]) == "" and sparkline([3, 3]) == 2 * chr(0x2581)
        assert len(sparkline([float(x) for x in range(1000)], width=40)) == 40
        assert sparkline([0.0, float("nan"), 1.0]) == chr(0x2581) + chr(0x2588)


MISTAKES = [
    ("extend nowhere --seeds 2", "no sweep 'nowhere'"),
    ("extend study", "Name --trials"),
    ("extend study --vary Tt=1", "unknown setting"),
    ("retry nowhere", "no sweep 'nowhere'"),
    ("watch nowhere", "no sweep 'nowhere'"),
    ("logs nowhere", "no sweep 'nowhere'"),
    ("prune nowhere --keep-bytes 1GB", "no sweep 'nowhere'"),
    ("prune --keep-bytes 1GB", "Name a sweep"),
    ("prune study", "Give --keep-bytes"),
    ("prune study --keep-bytes lots", "not an amount of bytes"),
]


@pytest.mark.parametrize(("line", "hint"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_mistake_is_one_line(line: str, hint: str, storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_study(storage, Status.FINISHED)
    before = storage.list()
    code, out, err = call(capsys, "sweep", *line.split(), "--storage", storage.url)
    assert code == 2 and out == "" and err.count("\n") == 1 and hint in err
    assert storage.list() == before


def test_weights_of_finished_trials_are_deleted_after_a_question(
    storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = recorded_study(storage, Status.FAILED, Status.FINISHED)[1]
    where = ("--storage", storage.url)
    before = storage.list()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, err = call(capsys, "sweep", "prune", "study", "--keep-bytes", "0", *where)
    assert code == 2 and out.strip() == "" and "1 finished trial would keep no weights" in err
    assert storage.list() == before
    # What costs no trial its weights is not asked about.
    code, out, _ = call(capsys, "sweep", "prune", "study", "--keep-bytes", "100", *where)
    assert code == 0 and "3 checkpoints, 100 B stay" in out
    code, out, _ = call(capsys, "sweep", "prune", "study", "--keep-bytes", "0", "--yes", *where)
    assert code == 0 and "1 checkpoint, 0 B stay" in out
    code, _, err = call(capsys, "eval", f"study/{done}", *where)
    assert (
        code == 2
        and "is finished and has no checkpoints. `trm sweep prune` deletes checkpoints" in err
        and err.count("\n") == 1
    )
