use super::*;

const IDLE: Load = Load { triggering: false, pending: 0, cleaning: 0, last_completion: Monotonic(0) };

fn decider(max_concurrent: u32, min_pause: u64, capacity: usize) -> Decider {
    Decider::new(max_concurrent, Duration::from_millis(min_pause), capacity)
}

fn manual(id: u64) -> Request {
    Request::of(RequestId(id), RequestKind::Manual)
}

fn savepoint(id: u64, forced: bool) -> Request {
    Request::of(RequestId(id), RequestKind::Savepoint { forced })
}

/// Runs all that wait, one after the other, on an idle coordinator.
fn order(decider: &mut Decider) -> Vec<Request> {
    std::iter::from_fn(|| match decider.next(IDLE, Monotonic(1_000_000)) {
        Decision::Run(request) => Some(request),
        _ => None,
    })
    .collect()
}

fn add_all(decider: &mut Decider, requests: &[Request]) {
    for (at, request) in (0..).zip(requests) {
        assert_eq!(decider.add(*request, Monotonic(at)), None);
    }
}

#[test]
fn s1_1_one_waiting_set_for_all_kinds() {
    let mut two = decider(1, 0, 2);
    add_all(&mut two, &[savepoint(1, false), manual(2)]);
    assert_eq!(
        two.add(Request::end(), Monotonic(3)),
        Some(Request::end()),
        "the set is full, whatever is in it"
    );
    assert_eq!(order(&mut two), [savepoint(1, false), manual(2)]);
}

#[test]
fn s1_3_only_savepoints_are_ever_forced() {
    for (request, forced) in [
        (savepoint(1, true), true),
        (savepoint(1, false), false),
        (manual(1), false),
        (Request::tick(), false),
        (Request::end(), false),
    ] {
        assert_eq!(request.forced, forced, "{request:?}");
    }
}

#[test]
fn s1_4e_otherwise_the_head_runs() {
    let mut decider = decider(2, 100, Decider::CAPACITY);
    add_all(&mut decider, &[Request::tick(), manual(1)]);
    let load = Load { triggering: false, pending: 1, cleaning: 2, last_completion: Monotonic(0) };
    let runs = [(); 3].map(|()| decider.next(load, Monotonic(100)));
    assert_eq!(runs, [Decision::Run(manual(1)), Decision::Run(Request::tick()), Decision::Wait]);
}

#[test]
fn s1_2_order_of_the_waiting_set() {
    let forced_periodic = Request { periodic: true, ..savepoint(5, true) };
    let requests =
        [Request::tick(), manual(2), savepoint(3, false), forced_periodic, savepoint(4, true), manual(6)];
    let mut decider = decider(1, 0, Decider::CAPACITY);
    add_all(&mut decider, &requests);
    assert_eq!(
        order(&mut decider),
        [savepoint(4, true), forced_periodic, savepoint(3, false), manual(2), manual(6), Request::tick()]
    );
}

#[test]
fn s1_2_ties_run_in_order_of_arrival() {
    let mut decider = decider(1, 0, Decider::CAPACITY);
    for id in [7, 3, 5] {
        assert_eq!(decider.add(manual(id), Monotonic(4)), None);
    }
    assert_eq!(decider.add(manual(9), Monotonic(3)), None);
    assert_eq!(order(&mut decider), [manual(9), manual(7), manual(3), manual(5)]);
}

#[test]
fn s1_4a_nothing_runs_while_another_is_triggering() {
    let mut decider = decider(5, 0, Decider::CAPACITY);
    add_all(&mut decider, &[savepoint(1, true)]);
    assert_eq!(decider.next(Load { triggering: true, ..IDLE }, Monotonic(9)), Decision::Wait);
    assert_eq!(decider.next(IDLE, Monotonic(9)), Decision::Run(savepoint(1, true)), "it waited");
}

#[test]
fn s1_4b_more_clean_ups_than_concurrent_checkpoints_hold_back_even_forced_ones() {
    let mut decider = decider(2, 0, Decider::CAPACITY);
    add_all(&mut decider, &[savepoint(1, true)]);
    assert_eq!(decider.next(Load { cleaning: 3, ..IDLE }, Monotonic(9)), Decision::Wait);
    assert_eq!(
        decider.next(Load { cleaning: 2, ..IDLE }, Monotonic(9)),
        Decision::Run(savepoint(1, true)),
        "equal is fine"
    );
}

#[test]
fn s1_4c_at_the_limit_only_a_forced_head_runs() {
    let mut decider = decider(1, 0, Decider::CAPACITY);
    let busy = Load { pending: 1, ..IDLE };
    add_all(&mut decider, &[manual(1), savepoint(2, false)]);
    assert_eq!(decider.next(busy, Monotonic(9)), Decision::Wait);
    assert_eq!(decider.add(savepoint(3, true), Monotonic(9)), None);
    assert_eq!(decider.next(busy, Monotonic(9)), Decision::Run(savepoint(3, true)));
    assert_eq!(decider.next(busy, Monotonic(9)), Decision::Wait, "an unforced savepoint at the head blocks");
}

#[test]
fn s1_4d_min_pause_boundary() {
    let mut decider = decider(1, 100, Decider::CAPACITY);
    let completed = Load { last_completion: Monotonic(1_000), ..IDLE };
    add_all(&mut decider, &[Request::tick()]);
    assert_eq!(
        decider.next(completed, Monotonic(1_099)),
        Decision::TooSoon(Request::tick(), Monotonic(1_100)),
        "99 ago: dropped, again in 1 ms"
    );
    assert_eq!(decider.next(completed, Monotonic(1_100)), Decision::Wait, "not kept");
    add_all(&mut decider, &[Request::tick()]);
    assert_eq!(decider.next(completed, Monotonic(1_100)), Decision::Run(Request::tick()), "100 ago: runs");
}

#[test]
fn s1_4d_min_pause_of_zero_never_drops() {
    let mut decider = decider(1, 0, Decider::CAPACITY);
    add_all(&mut decider, &[Request::tick()]);
    let just_now = Load { last_completion: Monotonic(50), ..IDLE };
    assert_eq!(decider.next(just_now, Monotonic(50)), Decision::Run(Request::tick()));
}

#[test]
fn s1_5_manual_ones_and_savepoints_ignore_the_min_pause() {
    let mut decider = decider(1, 100, Decider::CAPACITY);
    let just_now = Load { last_completion: Monotonic(50), ..IDLE };
    add_all(&mut decider, &[manual(1), savepoint(2, false), Request::end()]);
    for expected in [savepoint(2, false), manual(1), Request::end()] {
        assert_eq!(decider.next(just_now, Monotonic(50)), Decision::Run(expected));
    }
}

#[test]
fn s1_6_before_the_first_completion_the_clock_says_zero() {
    let mut decider = decider(1, 100, Decider::CAPACITY);
    add_all(&mut decider, &[Request::tick()]);
    assert_eq!(decider.next(IDLE, Monotonic(99)), Decision::TooSoon(Request::tick(), Monotonic(100)));
}

#[test]
fn s1_7_full_with_a_periodic_one_last_evicts_the_worst() {
    let mut two = decider(1, 0, 2);
    add_all(&mut two, &[manual(1), Request::tick()]);
    assert_eq!(two.add(manual(2), Monotonic(9)), Some(Request::tick()));
    assert_eq!(order(&mut two), [manual(1), manual(2)]);
}

#[test]
fn s1_7_the_new_one_may_be_the_worst_itself() {
    let scheduled = Request { periodic: true, ..savepoint(1, false) };
    let mut one = decider(1, 0, 1);
    add_all(&mut one, &[scheduled]);
    assert_eq!(one.add(manual(2), Monotonic(9)), Some(manual(2)));
    assert_eq!(order(&mut one), [scheduled]);
}

#[test]
fn s1_7_full_without_periodic_ones_rejects_whatever_comes() {
    let mut two = decider(1, 0, 2);
    add_all(&mut two, &[manual(1), manual(2)]);
    for request in [savepoint(3, true), manual(4), Request::tick()] {
        assert_eq!(two.add(request, Monotonic(9)), Some(request));
    }
    assert_eq!(order(&mut two), [manual(1), manual(2)]);
}

#[test]
fn s1_7_one_thousand_wait() {
    let mut decider = decider(1, 0, Decider::CAPACITY);
    for id in 0..1000 {
        assert_eq!(decider.add(manual(id), Monotonic(0)), None);
    }
    assert_eq!(decider.add(manual(1000), Monotonic(0)), Some(manual(1000)));
}

#[test]
fn s1_8_deliberately_unlike_flink_at_most_one_tick_waits() {
    let mut decider = decider(1, 0, Decider::CAPACITY);
    for at in 0..60 {
        assert_eq!(decider.add(Request::tick(), Monotonic(at)), None);
    }
    assert_eq!(order(&mut decider), [Request::tick()]);
    assert_eq!(decider.add(Request::tick(), Monotonic(99)), None);
    assert_eq!(order(&mut decider), [Request::tick()], "one that has run makes room for the next");
}

#[test]
fn s1_9_stopping_takes_out_all() {
    let mut decider = decider(1, 0, Decider::CAPACITY);
    add_all(&mut decider, &[Request::tick(), manual(1), savepoint(2, false)]);
    assert_eq!(decider.drain(), [savepoint(2, false), manual(1), Request::tick()]);
    assert_eq!(order(&mut decider), []);
}
