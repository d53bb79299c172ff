//! What kernels and the wire saw, and what must be said of it.

use causeway_proto::v1::Event;

use super::*;

fn ms(n: u64) -> At {
    At::from_millis(n)
}

fn up(node: &str, from: u64, to: Option<u64>) -> Presence {
    Presence {
        node: node.into(),
        device: "cwp1".into(),
        mac: "m".into(),
        from: Between(ms(from), ms(from + 1)),
        to: to.map(|to| Between(ms(to), ms(to + 1))),
    }
}

/// An answer 2 ms after the request, whose number is its time.
fn answer(node: &str, asked: u64) -> Answer {
    Answer {
        node: node.into(),
        request: asked as u32,
        address: "10.0.0.1".into(),
        mac: "m".into(),
        asked: ms(asked),
        heard: ms(asked + 2),
    }
}

/// A port that was at h1, at h2, and at h1 again.
fn good() -> History {
    let told = vec![Event { addresses: vec!["10.0.0.1".into()], mac: "m".into(), ..Event::default() }];
    let at = |node: &'static str, times: std::ops::Range<u64>| {
        times.step_by(50).map(move |asked| answer(node, asked))
    };
    let answers = at("h1", 110..400).chain(at("h2", 420..800)).chain(at("h1", 820..1000)).collect();
    let seen = vec![up("h1", 100, Some(400)), up("h2", 410, Some(800)), up("h1", 810, None)];
    History { told, seen, answers, ..History::default() }
}

#[track_caller]
fn said(history: &History, words: &str) {
    let found = complaints(history);
    assert!(found.iter().any(|complaint| complaint.contains(words)), "'{words}' is not in {found:#?}");
}

const NOTHING: Vec<String> = Vec::new();

#[test]
fn one_place_after_the_other_is_fine() {
    let mut history = good();
    assert_eq!(complaints(&history), NOTHING);
    history.answers.reverse();
    assert_eq!(complaints(&history), NOTHING);
}

#[test]
fn an_answer_of_two_hosts_at_a_time_is_found() {
    // h1 answers before and after h2 did, and was up all the time.
    let mut history = good();
    history.seen[0].to = Some(Between(ms(470), ms(471)));
    history.answers.push(answer("h1", 421));
    assert_eq!(
        complaints(&history).len(),
        1,
        "h1's last answer may be from before h2's first: only the kernels know"
    );
    history.answers.push(answer("h1", 450));
    said(&history, "10.0.0.1 was answered for by h1 and by h2 at a time, at 420 ms first, 2 times");
    // Where it came up anew in between, it may be the next owner's turn.
    history.seen.push(up("h1", 426, Some(460)));
    history.answers.retain(|answer| answer.node != "h2" || answer.asked < ms(450));
    assert!(complaints(&history).iter().all(|complaint| !complaint.contains("at a time")));
}

#[test]
fn an_answer_without_a_port_or_with_another_mac_is_found() {
    let mut history = good();
    history.answers.push(answer("h3", 500));
    said(&history, "10.0.0.1 was answered for by h3, where no port was up, at 500 ms first");
    let mut history = good();
    history.answers.push(answer("h1", 404));
    said(&history, "by h1, where no port was up");
    let mut history = good();
    history.answers[3].mac = "other".into();
    said(&history, "10.0.0.1 was answered for by other at h1, at 260 ms first; it is m's");
}

#[test]
fn two_workloads_of_one_host_are_found() {
    let mut history = good();
    history.answers.push(answer("h2", 520));
    said(&history, "10.0.0.1 was answered for twice by h2, at 520 ms first");
}

#[test]
fn who_is_fenced_is_heard_by_nobody_from_then_on() {
    let mut history = good();
    // h1 is cut off and keeps the port up until it is heard of again.
    history.seen[0].to = Some(Between(ms(700), ms(701)));
    history.answers.extend((420..700).step_by(50).map(|asked| answer("h1", asked + 1)));
    said(&history, "m was at h1");
    said(&history, "10.0.0.1 was answered for by h1 and by h2 at a time");
    let fence = |node: &str, from, to| Fence { node: node.into(), from: ms(from), to: ms(to) };
    history.fences = vec![fence("h3", 405, 690), fence("h2", 50, 90)];
    said(&history, "m was at h1");
    history.fences.push(fence("h1", 405, 690));
    assert_eq!(complaints(&history), NOTHING);
    // A fence excuses nothing of before, and nothing that came up afterwards.
    history.fences[2] = fence("h1", 500, 690);
    said(&history, "m was at h1 (cwp1) and at h2 (cwp1) from 411 ms on, for 89 ms at least");
    history.fences[2] = fence("h1", 50, 90);
    said(&history, "m was at h1");
    // What came up meanwhile its agent had heard of before.
    history.fences[2] = fence("h1", 405, 690);
    history.seen[0].to = Some(Between(ms(400), ms(401)));
    history.seen.push(up("h1", 420, Some(700)));
    assert_eq!(complaints(&history), NOTHING);
    history.fences[2] = fence("h1", 405, 415);
    said(&history, "m was at h2 (cwp1) and at h1 (cwp1) from 421 ms on");
}

#[test]
fn what_comes_later_is_left_out() {
    let mut history = good();
    history.seen[1].to = None;
    history.answers.push(answer("h3", 900));
    said(&history, "for ever");
    assert_eq!(complaints(&history.until(ms(805))), NOTHING);
    said(&history.until(ms(815)), "for ever");
    said(&history.until(ms(902)), "h3, where no port was up");
}
