"""Handing frames on: in memory, within one run, and with one sentence where the run leaves out what comes before."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from loginpipe.common.errors import UpstreamMissingError
from loginpipe.definitions import build_definitions
from loginpipe.defs.ingest.handover import HANDOVER, WHOLE_CHAIN, Handover
from loginpipe.defs.metadata.groups import CHAIN, GROUP

SECRET = "199.172.111.135"
seen: list[object] = []


@pytest.fixture(autouse=True)
def _nothing_seen_yet() -> None:
    seen.clear()


class Frame:
    """Something that only memory can hold: it cannot be pickled."""

    def __init__(self) -> None:
        self.value, self.unpicklable = SECRET, lambda: None


@dg.asset(group_name=GROUP, io_manager_key=HANDOVER)
def validated_logins() -> Frame:
    made = Frame()
    seen.append(made)
    return made


@dg.asset(group_name=GROUP, io_manager_key=HANDOVER)
def masked_logins(validated_logins: Frame) -> Frame:
    seen.append(validated_logins)
    return validated_logins


@dg.asset(group_name=GROUP, io_manager_key=HANDOVER)
def user_logins_table(masked_logins: Frame) -> None:
    seen.append(masked_logins)


CHAIN_OF_FRAMES = [validated_logins, masked_logins, user_logins_table]


def run(handover: Handover, instance: dg.DagsterInstance, *selection: str) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        CHAIN_OF_FRAMES,
        resources={HANDOVER: handover},
        selection=selection or None,
        instance=instance,
        raise_on_error=False,
    )


def causes(result: dg.ExecuteInProcessResult) -> list[tuple[str, str]]:
    """Class and first line of each error behind each failed step, outermost first."""
    found = []
    for event in result.all_events:
        error: Any = event.step_failure_data.error if event.is_step_failure else None
        while error is not None:
            found.append((error.cls_name, error.message.strip()))
            error = error.cause
    return found


def test_a_frame_reaches_the_next_asset_as_the_very_object(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(Handover(), instance).success
    made, *received = seen
    assert len(received) == 2
    assert all(frame is made for frame in received)


def test_nothing_of_a_frame_is_written_to_a_file_an_event_or_the_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "instance"
    folder.mkdir()
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        result = run(Handover(), instance)
        stored = "\n".join(repr(entry) for entry in instance.all_logs(result.run_id))
    assert result.success
    assert SECRET not in stored
    assert SECRET not in "".join(capfd.readouterr())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files, "the instance keeps its events in files, so there was something to look at"
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("alone", "upstream"), [("masked_logins", "validated_logins"), ("user_logins_table", "masked")]
)
def test_an_asset_selected_without_its_upstream_fails_before_anything_with_one_sentence(
    alone: str, upstream: str
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(Handover(), instance, alone)
    assert not result.success
    assert seen == []
    name, message = causes(result)[-1]
    assert name == UpstreamMissingError.__name__
    assert message.removeprefix("loginpipe.common.errors.UpstreamMissingError: ").startswith(
        "this asset takes its rows from"
    )
    assert upstream in message
    assert "KeyError" not in str(causes(result))
    assert WHOLE_CHAIN in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_the_sentence_names_a_selection_that_is_the_whole_chain() -> None:
    words = WHOLE_CHAIN.removeprefix("--select ").strip("'")
    graph = build_definitions().resolve_asset_graph()
    assert {key.to_user_string() for key in dg.AssetSelection.from_string(words).resolve(graph)} == set(CHAIN)


def test_a_frame_of_an_earlier_run_is_not_handed_to_a_later_one() -> None:
    handover = Handover()
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(handover, instance).success
        seen.clear()
        assert not run(handover, instance, "masked_logins").success
    assert seen == []


def test_two_runs_in_one_process_do_not_mix_their_frames() -> None:
    handover = Handover()
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(handover, instance).success
        first = seen[0]
        seen.clear()
        assert run(handover, instance).success
    assert first not in seen
    assert len(set(map(id, seen))) == 1


def test_without_the_handover_an_asset_of_the_chain_fails_and_falls_back_to_nothing_that_writes_files(
    tmp_path: Path,
) -> None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(dg.DagsterInvalidDefinitionError, match=f"'{HANDOVER}'"),
    ):
        dg.materialize(CHAIN_OF_FRAMES, instance=instance)
    assert seen == []
    assert list(tmp_path.rglob("*")) == []


def test_a_selection_that_includes_the_upstream_runs() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(Handover(), instance, "validated_logins", "masked_logins").success
    assert len(seen) == 2
