//! When checkpoints are begun: §1 and §2, the schedule, and the final checkpoint.

use super::*;

#[test]
fn s1_4a_a_request_that_waited_runs_when_triggering_fails() {
    let mut rig = Rig::manual(&settings().max_concurrent(2));
    assert_eq!(rig.request(1), [prepare(1)]);
    assert_eq!(rig.request(2), [], "while 1 is being prepared");
    let reason = FailureReason::TriggerFailed { message: text() };
    assert_eq!(
        rig.on(Event::Prepared { checkpoint: cp(1), result: Err(reason.clone()) }),
        [
            refusal(1, Some(1), reason.clone()),
            failed(Some(1), reason),
            aborted(1, None),
            clean_up(1, &[]),
            prepare(2)
        ]
    );
}

#[test]
fn s1_4b_clean_ups_hold_back_new_checkpoints() {
    let mut rig = Rig::manual(&settings());
    for id in 1..=2 {
        assert_eq!(rig.request(id), [prepare(id)]);
        rig.prepared(id);
        rig.decline(id, FailureReason::TaskNotReady);
    }
    assert_eq!(rig.request(3), [], "two being cleaned up, one concurrent");
    assert_eq!(rig.on(Event::Cleaned { checkpoint: cp(9) }), []);
    assert_eq!(rig.on(Event::Cleaned { checkpoint: cp(1) }), [prepare(3)]);
}

#[test]
fn s1_4c_a_request_waits_for_the_one_under_way() {
    let mut rig = Rig::manual(&settings());
    assert_eq!(rig.request(1), [prepare(1)]);
    assert_eq!(rig.request(2), []);
    rig.up_to_persist(1, false);
    assert_eq!(rig.persisted(1, Ok(())), [answer(1, 1), complete(1, false), prepare(2)]);
}

#[test]
fn s1_4d_a_tick_within_the_min_pause_is_put_off_by_what_is_left() {
    let mut rig = Rig::new(&settings().min_pause(ms(100)));
    assert_eq!(rig.timer_at(1_100), [prepare(1)]);
    rig.now = 1_150;
    rig.up_to_persist(1, false);
    rig.persisted(1, Ok(()));
    assert_eq!(rig.timer_at(1_200), [failed(None, FailureReason::MinPause)]);
    assert_eq!(rig.deadline(), Some(1_250));
    assert_eq!(rig.timer_at(1_249), []);
    assert_eq!(rig.timer_at(1_250), [prepare(2)]);
    assert_eq!(rig.coordinator.next_tick, Some(Monotonic(1_350)));
}

#[test]
fn s1_5_a_manual_one_ignores_the_min_pause() {
    let mut rig = Rig::new(&settings().min_pause(ms(100)));
    rig.take(1);
    assert_eq!(rig.request(2), [prepare(2)]);
}

#[test]
fn s1_6_every_completion_restarts_the_min_pause_and_no_failure_does() {
    let mut rig = Rig::new(&settings().min_pause(ms(100)));
    rig.now = 1_050;
    rig.savepoint(1, false);
    rig.up_to_persist(1, false);
    rig.persisted(1, Ok(()));
    rig.now = 1_060;
    rig.request(2);
    rig.prepared(2);
    rig.decline(2, FailureReason::TaskNotReady);
    assert_eq!(rig.timer_at(1_100), [failed(None, FailureReason::MinPause)]);
    assert_eq!(rig.deadline(), Some(1_150));
}

#[test]
fn s1_7_one_request_too_many_is_refused() {
    let mut rig = Rig::manual(&settings());
    for id in 0..=1_000 {
        rig.request(id);
    }
    assert_eq!(
        rig.request(1_001),
        [refusal(1_001, None, FailureReason::TooManyRequests), failed(None, FailureReason::TooManyRequests)]
    );
}

#[test]
fn s1_8_a_long_checkpoint_leaves_one_tick_not_sixty() {
    let mut rig = Rig::new(&settings().timeout(ms(60_000)));
    assert_eq!(rig.timer_at(1_000), [prepare(1)]);
    for tick in 1..=60 {
        assert_eq!(rig.timer_at(1_000 + tick * 100), []);
    }
    rig.now = 7_050;
    rig.up_to_persist(1, false);
    assert_eq!(rig.persisted(1, Ok(())), [complete(1, false), prepare(2)]);
    rig.up_to_persist(2, false);
    assert_eq!(rig.persisted(2, Ok(())), [retire(1), complete(2, false)], "and then the schedule goes on");
    assert_eq!(rig.deadline(), Some(7_100));
}

#[test]
fn s1_9_stopping_fails_all_that_wait() {
    let mut rig = Rig::new(&settings());
    rig.timer_at(1_000);
    rig.request(1);
    rig.savepoint(2, false);
    let actions = rig.stop();
    let reason = FailureReason::RegionFailover;
    assert_eq!(
        actions,
        [
            failed(Some(1), reason.clone()),
            aborted(1, None),
            refusal(2, None, reason.clone()),
            failed(None, reason.clone()),
            refusal(1, None, reason.clone()),
            failed(None, reason),
        ]
    );
    assert_eq!(rig.deadline(), None);
}

#[test]
fn s1_9_stopping_the_schedule_fails_all_that_waits_or_is_under_way() {
    let mut rig = Rig::new(&settings());
    rig.timer_at(1_000);
    rig.request(1);
    rig.savepoint(2, false);
    let reason = FailureReason::Suspended;
    assert_eq!(
        rig.on(Event::StopSchedule),
        [
            failed(Some(1), reason.clone()),
            aborted(1, None),
            refusal(2, None, reason.clone()),
            failed(None, reason.clone()),
            refusal(1, None, reason.clone()),
            failed(None, reason),
        ]
    );
    assert_eq!((rig.deadline(), rig.coordinator.is_periodic_started()), (None, false));
    assert_eq!(rig.on(Event::StopSchedule), [], "again");
}

#[test]
fn s1_9_a_stopped_schedule_spares_a_commit_and_takes_the_final_checkpoint() {
    let mut rig = Rig::new(&settings());
    rig.timer_at(1_000);
    rig.up_to_persist(1, false);
    rig.on(Event::InputEnded);
    assert_eq!(rig.on(Event::StopSchedule), []);
    assert_eq!(rig.persisted(1, Ok(())), [complete(1, false)]);
    assert_eq!(rig.deadline(), Some(1_100), "its request was dropped with the others");
    assert_eq!(rig.timer_at(1_100), [prepare(2)]);
    rig.up_to_persist(2, true);
    assert_eq!(rig.persisted(2, Ok(())), [retire(1), complete(2, true)]);
}

#[test]
fn s2_1_nothing_is_begun_before_all_subtasks_run() {
    let mut rig = Rig::stopped(Some(&settings()));
    assert_eq!(rig.timer_at(100_000), []);
    assert_eq!(
        rig.request(1),
        [refusal(1, None, FailureReason::TasksNotRunning), failed(None, FailureReason::TasksNotRunning)]
    );
}

#[test]
fn s2_1_sources_are_triggered_after_the_place_exists() {
    let mut rig = Rig::manual(&settings());
    assert_eq!(rig.request(1), [prepare(1)]);
    assert_eq!(rig.prepared(1), [trigger(1, 0)]);
    assert_eq!(rig.prepared(1), [], "told twice");
    assert_eq!(rig.prepared(7), [], "of nobody");
}

#[test]
fn s2_2_storage_failures_before_the_trigger_count_and_others_do_not() {
    let mut rig = Rig::manual(&settings().tolerable_failures(0));
    for (id, reason) in
        [(1, FailureReason::TriggerFailed { message: text() }), (2, FailureReason::Io { message: text() })]
    {
        rig.request(id);
        let actions = rig.on(Event::Prepared { checkpoint: cp(id), result: Err(reason.clone()) });
        assert_eq!(actions.contains(&fail_job(id, None, reason.clone())), reason.counts());
    }
}

#[test]
fn s2_3_ids_never_repeat() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.stop();
    rig.prepared(1);
    rig.attempt = Attempt(1);
    rig.start(false);
    rig.coordinator.interval = None;
    assert_eq!(rig.request(2), [prepare(2)]);
    let next = |first, retained| {
        Coordinator::<State>::new(None, cp(first), retained, Vec::new(), Vec::new()).next_id
    };
    assert_eq!(next(5, vec![cp(3), cp(4)]), cp(5));
    assert_eq!(next(1, vec![cp(3), cp(4)]), cp(5), "also when told a number that exists");
}

#[test]
fn s2_4_without_a_schedule_manual_ones_run_and_no_tick_comes() {
    let mut rig = Rig::stopped(None);
    rig.start(true);
    assert_eq!(rig.deadline(), None);
    assert_eq!(rig.timer_at(1_000_000), []);
    assert_eq!(rig.request(1), [prepare(1)]);
    assert_eq!(rig.deadline(), Some(1_600_000), "the default timeout, 10 min");
}

#[test]
fn s2_4_with_the_schedule_stopped_manual_ones_run_and_no_tick_comes() {
    let mut rig = Rig::new(&settings());
    assert!(rig.coordinator.is_periodic_started());
    rig.on(Event::StopSchedule);
    assert_eq!(rig.timer_at(5_000), []);
    rig.take(1);
    rig.stop();
    rig.attempt = Attempt(1);
    rig.start(false);
    assert_eq!(rig.deadline(), None, "a restart of the job does not start it");
    rig.take(2);
}

#[test]
fn s2_5_the_timeout_runs_from_the_begin_of_preparing() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    assert_eq!(rig.deadline(), Some(2_000));
    rig.now = 1_900;
    rig.prepared(1);
    assert_eq!(rig.deadline(), Some(2_000));
}

#[test]
fn s2_6_a_trigger_that_cannot_be_sent_aborts() {
    let mut rig = Rig::manual(&settings());
    rig.request(1);
    rig.prepared(1);
    let reason = FailureReason::TriggerFailed { message: text() };
    assert!(rig.decline(1, reason.clone()).contains(&failed(Some(1), reason)));
    assert_eq!(rig.coordinator.pending(), []);
}

#[test]
fn s2_7_ticks_keep_a_fixed_rate_and_missed_ones_are_one() {
    let mut rig = Rig::new(&settings().max_concurrent(9));
    assert_eq!(rig.timer_at(1_030), [prepare(1)], "30 late");
    assert_eq!(rig.coordinator.next_tick, Some(Monotonic(1_100)), "but the next one is not");
    rig.prepared(1);
    assert_eq!(rig.timer_at(1_099), [], "early");
    assert_eq!(rig.timer_at(1_450), [prepare(2)], "four missed");
    assert_eq!(rig.timer_at(1_450), [], "repeated");
    assert_eq!(rig.coordinator.next_tick, Some(Monotonic(1_500)));
}

#[test]
fn s2_8_settings_out_of_bounds_neither_panic_nor_storm() {
    let mut rig = Rig::new(&Checkpointing::every(ms(0)).timeout(ms(0)).max_concurrent(0).retain(0));
    assert_eq!(rig.timer_at(1_000), [prepare(1)]);
    rig.up_to_persist(1, false);
    rig.persisted(1, Ok(()));
    assert_eq!(rig.coordinator.retained(), [cp(1)]);
    assert_eq!(rig.deadline(), Some(1_010));
}

#[test]
fn s2_10_the_first_tick_is_random_between_min_pause_and_interval() {
    let settings = settings().min_pause(ms(40));
    let mut seen = std::collections::BTreeSet::new();
    for random in (0..61).chain([u64::MAX]) {
        let mut rig = Rig::stopped(Some(&settings));
        rig.on(Event::Start { attempt: Attempt(0), random, first: true });
        seen.extend(rig.deadline());
    }
    assert_eq!(seen, (1_040..=1_100).collect());
}

#[test]
fn s2_10_after_a_restart_the_first_tick_is_exactly_the_min_pause_away() {
    let mut rig = Rig::stopped(Some(&settings().min_pause(ms(40))));
    rig.on(Event::Start { attempt: Attempt(1), random: 17, first: false });
    assert_eq!(rig.deadline(), Some(1_040));
}

#[test]
fn s2_10_a_schedule_that_was_stopped_begins_with_exactly_the_min_pause() {
    let mut rig = Rig::new(&settings().min_pause(ms(40)));
    rig.on(Event::StopSchedule);
    rig.now = 3_000;
    assert_eq!(rig.on(Event::StartSchedule), []);
    assert_eq!(rig.deadline(), Some(3_040));
    rig.now = 3_010;
    rig.on(Event::StartSchedule);
    assert_eq!(rig.deadline(), Some(3_040), "again");
    rig.stop();
    rig.on(Event::StopSchedule);
    rig.on(Event::StartSchedule);
    assert!(!rig.coordinator.is_periodic_started(), "not while nothing runs");
    rig.start(false);
    assert_eq!(rig.deadline(), Some(3_050));
    let mut rig = Rig::stopped(None);
    rig.start(true);
    rig.on(Event::StopSchedule);
    rig.on(Event::StartSchedule);
    assert_eq!(rig.deadline(), None, "without an interval there is none");
}

#[test]
fn the_final_checkpoint_is_taken_at_once_and_ends_everything() {
    let mut rig = Rig::new(&settings().min_pause(ms(100)));
    rig.take(1);
    assert_eq!(rig.on(Event::InputEnded), [prepare(2)], "whatever the min pause");
    assert_eq!(rig.on(Event::InputEnded), [], "said again");
    assert_eq!(rig.request(5), []);
    rig.up_to_persist(2, true);
    let reason = FailureReason::JobFinished;
    let (no, fail) = (refusal(5, None, reason.clone()), failed(None, reason));
    assert_eq!(rig.persisted(2, Ok(())), [retire(1), complete(2, true), no, fail.clone()]);
    assert_eq!(rig.deadline(), None);
    assert_eq!(rig.timer_at(99_999), []);
    assert_eq!(rig.on(Event::InputEnded), []);
    assert_eq!(rig.request(6), [refusal(6, None, FailureReason::JobFinished), fail]);
}

#[test]
fn the_final_checkpoint_needs_no_schedule() {
    let mut rig = Rig::stopped(None);
    rig.start(true);
    assert_eq!(rig.on(Event::InputEnded), [prepare(1)]);
    rig.up_to_persist(1, true);
    assert_eq!(rig.persisted(1, Ok(())), [complete(1, true)]);
}

#[test]
fn any_checkpoint_in_which_all_were_finished_is_the_final_one() {
    let mut rig = Rig::new(&settings());
    rig.timer_at(1_000);
    rig.up_to_persist(1, true);
    rig.on(Event::InputEnded);
    assert_eq!(rig.persisted(1, Ok(())), [complete(1, true)]);
    assert_eq!(rig.deadline(), None);
}

#[test]
fn a_final_checkpoint_that_fails_is_taken_again_after_a_delay() {
    for (pause, delay) in [(0, 100), (250, 250)] {
        let mut rig = Rig::manual(&settings().min_pause(ms(pause)));
        rig.on(Event::InputEnded);
        rig.prepared(1);
        rig.decline(1, FailureReason::TaskNotReady);
        assert_eq!(rig.deadline(), Some(1_000 + delay));
        assert_eq!(rig.timer_at(999 + delay), []);
        assert_eq!(rig.timer_at(1_000 + delay), [prepare(2)]);
    }
}

#[test]
fn a_final_checkpoint_with_one_subtask_unfinished_is_taken_again() {
    for (first, second) in [(true, false), (false, true)] {
        let mut rig = Rig::manual(&settings());
        rig.on(Event::InputEnded);
        rig.prepared(1);
        rig.ack_as(1, SOURCE, Attempt(0), first);
        assert_eq!(rig.ack_as(1, SINK, Attempt(0), second), [persist(1, false)]);
        assert_eq!(rig.persisted(1, Ok(())), [complete(1, false)]);
        assert_eq!(rig.timer_at(1_100), [prepare(2)]);
    }
}

#[test]
fn a_stop_forgets_that_the_input_ended() {
    let mut rig = Rig::manual(&settings());
    rig.on(Event::InputEnded);
    rig.up_to_persist(1, false);
    rig.stop();
    rig.attempt = Attempt(1);
    rig.start(false);
    rig.coordinator.next_tick = None;
    assert_eq!(rig.persisted(1, Err(PersistFailure::Failed { message: text() })).len(), 3);
    assert_eq!((rig.deadline(), rig.timer_at(99_999)), (None, vec![]));
    assert_eq!(rig.on(Event::InputEnded), [prepare(2)]);
}

#[test]
fn input_that_ends_before_the_start_is_remembered() {
    let mut rig = Rig::stopped(None);
    assert_eq!(rig.on(Event::InputEnded), []);
    assert_eq!(rig.start(true), [prepare(1)]);
}

#[test]
fn an_attempt_after_the_final_checkpoint_takes_one_of_its_own() {
    let mut rig = Rig::manual(&settings());
    rig.on(Event::InputEnded);
    rig.up_to_persist(1, true);
    rig.persisted(1, Ok(()));
    rig.stop();
    rig.attempt = Attempt(1);
    rig.start(false);
    assert_eq!(rig.on(Event::InputEnded), [prepare(2)], "its sinks failed to commit the first time");
}

#[test]
fn s6_12_savepoints_and_the_final_checkpoint_align_whatever_the_mode() {
    let must_align = |event: fn() -> Event<State>| {
        let mut rig = Rig::manual(&settings());
        rig.on(event());
        let triggers = rig.prepared(1).into_iter().find_map(|action| match action {
            Action::Trigger { must_align, .. } => Some(must_align),
            _ => None,
        });
        triggers.unwrap()
    };
    assert!(must_align(|| Event::InputEnded));
    assert!(must_align(|| Event::Request {
        request: RequestId(1),
        kind: RequestKind::Savepoint { forced: false }
    }));
    assert!(!must_align(|| Event::Request { request: RequestId(1), kind: RequestKind::Manual }));
}
