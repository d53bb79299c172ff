//! A short run of what `examples/mutate.rs` does at length.

#[test]
fn mutated_messages_are_read_or_refused() {
    let report = crate::mutate::run(0x5eed, 200_000);
    assert_eq!(report.messages, 200_000);
    // Both ends of the decoder are reached.
    assert!(report.accepted > 10_000 && report.refused > 10_000, "{report:?}");
}
